"""What people complain about in other supervisors, and which tests show that herdpy has it not.

The numbers are those of the project's list of complaints, the rest says which threads or what it is about: ``S`` stands
for a defect of GNU Shepherd that was seen, ``40:`` for one by the number of its report.
"""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
COMPLAINTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "S1": (
        "an unregistered dependency hangs the client",
        (
            "system/test_user_pain_shepherd.py::test_s1_and_s2_what_could_never_start_is_refused_before_anything_is_started",
            "supervisor/test_plan.py::test_unknown_requirements_are_told_with_near_names",
        ),
    ),
    "S2": (
        "a cycle of dependencies hangs, and eats memory",
        (
            "system/test_user_pain_shepherd.py::test_s1_and_s2_what_could_never_start_is_refused_before_anything_is_started",
            "supervisor/test_plan.py::test_a_cycle_is_shown_as_a_path_with_its_files",
            "supervisor/test_order.py::test_a_cycle_of_afters_is_refused",
        ),
    ),
    "S3": (
        "what takes long blocks the whole daemon",
        ("system/test_user_pain_control.py::test_s3_what_takes_long_blocks_nobody_else",),
    ),
    "S4": (
        "a last line without newline is lost, long lines are split",
        (
            "logger/test_pen.py::test_a_last_line_without_newline_is_kept",
            "logger/test_pen.py::test_a_line_of_ten_megabytes_stays_whole",
            "system/test_user_pain_output.py::test_29_output_is_logged_after_a_stop_and_a_start_and_after_restarts",
        ),
    ),
    "S5": (
        "a grandchild with a session of its own survives a stop",
        (
            "system/test_user_pain_life.py::test_shepherd_a_grandchild_with_a_session_of_its_own_is_gone_after_a_stop",
            "keeper/test_cgroup.py::test_each_service_has_one_and_we_are_at_home",
        ),
    ),
    "S6": (
        "a killed daemon leaves orphans that the next one does not know",
        (
            "system/test_survival.py::test_services_go_on_and_are_known",
            "supervisor/test_engine.py::test_a_killed_supervisor_is_no_event_for_a_service",
        ),
    ),
    "S7": (
        "an end disables, the limit is off by one, enabling forgets no respawns",
        (
            "system/test_user_pain_life.py::test_shepherd_an_end_that_is_not_respawned_disables_nothing",
            "supervisor/test_respawn.py::test_it_is_given_up_exactly_when_so_many_ends_lie_within_the_interval",
            "supervisor/test_respawn.py::test_a_start_by_hand_forgets_what_was",
        ),
    ),
    "S8": (
        "the graph aborts; a reload stops everything",
        (
            "system/test_user_pain_control.py::test_s8_the_graph_is_whole_whatever_is_required",
            "client/test_herd.py::test_graph_draws_what_is_missing",
            "supervisor/test_reload.py::test_each_kind_of_change_is_told_beforehand_and_then_done",
        ),
    ),
    "S9": (
        "a shutdown stops one service after the other",
        (
            "system/test_user_pain_control.py::test_s9_and_4_stubborn_services_are_stopped_at_once_not_one_after_another",
            "supervisor/test_engine.py::test_independent_services_stop_at_once_at_shutdown",
        ),
    ),
    "S10": (
        "a failed exec is told as started; no readiness, no start timeout",
        (
            "supervisor/test_engine.py::test_a_program_that_is_not_there_is_a_failed_start",
            "keeper/test_spawn.py::test_why_an_exec_failed",
            "system/test_ready.py::test_it_never_says_that_it_is_ready",
        ),
    ),
    "S11": (
        "a start of what is disabled is refused without a reason",
        (
            "system/test_user_pain_control.py::test_s11_and_10_a_start_that_is_refused_says_why_and_a_start_by_hand_clears_the_counters",
        ),
    ),
    "S12": (
        "a stale socket is left, and two daemons share one",
        (
            "system/test_user_pain_control.py::test_s12_no_socket_is_left_behind_and_two_herdpys_do_not_share_one",
            "system/test_user_pain_control.py::test_s12_a_stale_socket_is_replaced",
        ),
    ),
    "S13": (
        "whoever reaches the socket may do anything, eval is arbitrary code",
        (
            "supervisor/test_rights.py::test_readers_read_operators_operate_and_nobody_else_gets_a_connection",
            "conformance/test_literal.py::test_root",
        ),
    ),
    "1": (
        "Supervisor/supervisor#1101, #1396, #865",
        ("system/test_user_pain_life.py::test_supervisor_1101_a_tree_of_shells_is_gone_after_a_stop",),
    ),
    "2": (
        "Supervisor/supervisor#925",
        (
            "system/test_user_pain_life.py::test_supervisor_925_the_next_supervisor_knows_what_runs",
            "system/test_survival.py::test_services_go_on_and_are_known",
        ),
    ),
    "3": (
        "canonical/pebble#594, #149",
        (
            "system/test_user_pain_life.py::test_pebble_594_a_restart_is_not_hindered_by_what_is_left_of_the_old_process",
        ),
    ),
    "4": (
        "process-compose#258, #354, #280",
        (
            "system/test_user_pain_life.py::test_process_compose_258_a_stop_that_hangs_is_bounded_and_seen",
            "system/test_user_pain_control.py::test_s9_and_4_stubborn_services_are_stopped_at_once_not_one_after_another",
        ),
    ),
    "5": (
        "habitat-sh/habitat#4578, jdx/pitchfork PR#632",
        (
            "system/test_reused_pids.py::test_a_stranger_with_the_number_of_a_killed_process_is_left_alone",
            "keeper/test_death.py::test_a_process_that_ended_keeps_its_numbers_until_it_is_released",
            "readiness/test_pid_file.py::test_a_number_that_another_process_has_by_now_is_stale",
        ),
    ),
    "6": (
        "Supervisor/supervisor#1707",
        ("system/test_user_pain_life.py::test_supervisor_1707_services_do_not_share_a_session",),
    ),
    "7": (
        "Supervisor/supervisor#487, #1528",
        (
            "supervisor/test_respawn.py::test_delays_double_until_it_was_well_for_long_enough",
            "supervisor/test_engine.py::test_the_delay_of_respawns_doubles_up_to_its_limit",
        ),
    ),
    "8": (
        "Supervisor/supervisor#1189, jupyterhub/simpervisor#55",
        (
            "system/test_user_pain_output.py::test_8_a_tight_loop_of_respawns_ends_by_itself_and_costs_nothing_from_then_on",
        ),
    ),
    "9": (
        "Supervisor/supervisor#1285, #405",
        ("system/test_user_pain_life.py::test_supervisor_1285_the_limit_holds_for_what_never_runs_for_a_second",),
    ),
    "10": (
        "systemd/systemd#2416, #6129, #43813, #10529",
        (
            "system/test_user_pain_output.py::test_10_with_a_limit_of_the_delay_it_is_tried_more_and_more_seldom_but_for_ever",
            "system/test_user_pain_life.py::test_systemd_10529_a_person_can_start_again_what_was_given_up",
            "supervisor/test_respawn.py::test_delays_double_until_it_was_well_for_long_enough",
        ),
    ),
    "11": (
        "davmac314/dinit#249",
        ("system/test_user_pain_life.py::test_dinit_249_what_only_misses_a_requirement_is_not_counted_as_dead",),
    ),
    "12": (
        "finit#310, process-compose#403, #170",
        (
            "system/test_user_pain_life.py::test_finit_310_the_delay_of_a_respawn_is_kept",
            "system/test_ready.py::test_a_service_that_falls_ill_is_started_again",
        ),
    ),
    "13": (
        "circus#529, process-compose#530, finit#313",
        (
            "system/test_user_pain_life.py::test_circus_529_nothing_is_respawned_between_the_signal_and_the_kill",
            "system/test_user_pain_life.py::test_process_compose_530_stops_and_restarts_at_once_leave_no_second_process",
            "system/test_user_pain_life.py::test_finit_313_one_that_is_stopped_while_it_crashes_is_stopped",
        ),
    ),
    "14": (
        "Supervisor/supervisor#720, #910",
        (
            "supervisor/test_reload.py::test_each_kind_of_change_is_told_beforehand_and_then_done",
            "supervisor/test_reload.py::test_dependents_of_what_is_restarted_come_back",
        ),
    ),
    "15": (
        "Supervisor/supervisor#1154, #1161, #1713",
        (
            "supervisor/test_reload.py::test_what_was_stopped_or_disabled_by_hand_stays_so",
            "supervisor/test_reload.py::test_a_mistake_anywhere_and_nothing_changes",
            "supervisor/test_groups.py::test_instances_of_one_declaration",
        ),
    ),
    "16": (
        "finit#382, circus PR#553",
        (
            "system/test_user_pain_order.py::test_16_a_reload_touches_no_socket_of_what_has_not_changed",
            "system/test_activation.py::test_nobody_who_connects_is_refused_while_it_is_restarted",
        ),
    ),
    "17": (
        "dinit 0.21, Shepherd 1.0",
        (
            "system/test_user_pain_order.py::test_17_that_a_file_was_changed_is_told_in_the_status",
            "supervisor/test_reload.py::test_a_pending_replacement_outlives_the_supervisor",
        ),
    ),
    "18": (
        "Supervisor/supervisor#122, PR#776",
        (
            "supervisor/test_engine.py::test_requirements_start_before_and_dependents_stop_before",
            "supervisor/test_order.py::test_after_is_order_alone",
        ),
    ),
    "19": (
        "process-compose#274, #544, #189",
        (
            "system/test_user_pain_life.py::test_process_compose_274_what_requires_a_failed_start_is_not_started",
            "system/test_user_pain_order.py::test_19_a_dependent_that_dies_while_its_requirement_respawns_comes_back_after_it",
        ),
    ),
    "20": (
        "finit#343, #314, #246",
        ("system/test_user_pain_order.py::test_20_and_19_a_dependent_waits_for_the_readiness_of_what_was_respawned",),
    ),
    "21": (
        "davmac314/dinit#6",
        (
            "supervisor/test_plan.py::test_every_cycle_is_told_and_nothing_that_only_depends_on_one",
            "supervisor/test_impatience.py::test_what_waits_for_another_says_so",
        ),
    ),
    "22": (
        "a report to Guix: guix-daemon before user-processes",
        ("system/test_user_pain_order.py::test_22_what_requires_user_processes_never_starts_before_it",),
    ),
    "23": (
        "finit#285, dinit#300, #314, PR#108",
        (
            "system/test_user_pain_control.py::test_23_restart_starts_what_is_stopped_or_has_crashed_and_says_so",
            "system/test_user_pain_control.py::test_23_restart_with_dependents_is_not_refused_and_brings_them_back",
        ),
    ),
    "24": (
        "circus#776, #831, #814, #690, #1154, #1179",
        (
            "system/test_user_pain_control.py::test_24_a_slow_stop_of_one_service_blocks_no_command_on_others",
            "system/test_user_pain_life.py::test_circus_776_a_slow_stop_hinders_nobody_else",
        ),
    ),
    "25": (
        "canonical/pebble#167, #314, process-compose#130",
        (
            "system/test_user_pain_control.py::test_25_what_could_not_be_started_at_boot_is_seen",
            "system/test_user_pain_control.py::test_25_a_daemon_that_hangs_does_not_hang_its_client",
            "system/test_init_system.py::test_a_supervisor_that_hangs_is_replaced_and_services_do_not_notice",
            "system/test_ready.py::test_a_port_that_another_program_has",
        ),
    ),
    "26": (
        "davmac314/dinit#564",
        ("system/test_user_pain_order.py::test_26_every_kind_of_service_is_commanded_alike",),
    ),
    "27": (
        "Supervisor/supervisor#240, #290, DataDog/dd-agent#173",
        (
            "logger/test_pen.py::test_a_file_that_someone_took_away_is_made_anew",
            "logger/test_rotation.py::test_a_file_that_cannot_be_renamed_grows_on_and_that_is_told_once",
            "system/test_log_directory.py::test_services_go_on_and_it_is_told_once_how_many_lines_are_missing",
        ),
    ),
    "28": (
        "Supervisor/supervisor#1098, #1395, #322, #1463",
        (
            "system/test_user_pain_output.py::test_28_logrotate_needs_no_signal_and_loses_no_line",
            "logger/test_rotation.py::test_a_service_s_log_is_rotated_and_compressed_and_the_oldest_go",
            "client/test_log.py::test_following_goes_on_across_rotation_and_re_creation",
        ),
    ),
    "29": (
        "circus#912, docker/compose#5451, #8925, #8884, #10658",
        ("system/test_user_pain_output.py::test_29_output_is_logged_after_a_stop_and_a_start_and_after_restarts",),
    ),
    "30": (
        "canonical/pebble#211",
        ("system/test_user_pain_output.py::test_30_respawns_without_end_fill_no_log_of_herdpys",),
    ),
    "31": (
        "Supervisor/supervisor#26, #489, #1082",
        (
            "system/test_user_pain_order.py::test_31_more_than_1023_services_run",
            "system/test_user_pain_control.py::test_31_more_than_1023_connections_are_served",
            "system/test_exhaustion.py::test_a_supervisor_without_descriptors",
        ),
    ),
    "32": (
        "Supervisor/supervisor#807, circus#1055",
        (
            "system/test_user_pain_control.py::test_31_and_32_no_connection_costs_anything_once_it_is_over",
            "keeper/test_begin.py::test_nothing_wakes_it_up_while_nothing_happens",
        ),
    ),
    "33": (
        "Supervisor/supervisor#184, #1003, #1704, circus#732, #570",
        (
            "system/test_soak.py::test_five_hundred_starts_and_stops_leak_nothing",
            "system/test_activation.py::test_no_descriptor_is_left_after_many_activations",
        ),
    ),
    "34": (
        "circus#1064, #1055, PR#1139",
        (
            "system/test_user_pain_order.py::test_34_what_herdpy_needs_is_little",
            "test_imports.py::test_the_standard_library_is_enough",
        ),
    ),
    "35": (
        "Supervisor/supervisor#771, #1304, #681, #543",
        (
            "supervisor/test_process_attributes.py::test_environment_files_are_read_at_each_start",
            "supervisor/test_process_attributes.py::test_a_credential_is_its_service_s_alone_and_gone_after",
            "preparation/test_environment_file.py::test_what_a_file_sets",
        ),
    ),
    "36": (
        "ochinchina/supervisord#341",
        ("system/test_user_pain_output.py::test_36_a_service_has_herdpys_environment_but_what_is_meant_for_herdpy",),
    ),
    "37": (
        "Supervisor/supervisor#733, #712, #1182, #755",
        (
            "supervisor/test_order.py::test_herdpy_ends_with_its_essential_service",
            "supervisor/test_order.py::test_an_essential_service_is_given_up_after_its_respawns",
        ),
    ),
    "38": (
        "habitat-sh/habitat#2199",
        (
            "keeper/test_death.py::test_orphans_come_to_the_keeper_and_are_reaped",
            "keeper/test_spawn.py::test_a_failed_child_leaves_no_zombie",
        ),
    ),
    "39": (
        "davmac314/dinit#397",
        (
            "keeper/test_cgroup.py::test_each_service_has_one_and_we_are_at_home",
            "keeper/test_cgroup.py::test_what_a_service_made_below_its_own_goes_with_it",
        ),
    ),
    "40: 58485": (
        "a stop that is not over when it is answered",
        ("system/test_user_pain_life.py::test_shepherd_58485_when_a_stop_is_answered_the_process_is_gone",),
    ),
    "40: 54786": (
        "a service that is started twice",
        ("system/test_user_pain_life.py::test_shepherd_54786_a_service_is_not_started_twice",),
    ),
    "40: 63717": (
        "a restart that runs the old definition",
        (
            "supervisor/test_reload.py::test_each_kind_of_change_is_told_beforehand_and_then_done",
            "system/test_user_pain_order.py::test_17_that_a_file_was_changed_is_told_in_the_status",
        ),
    ),
    "40: 64008": (
        "what is disabled is started",
        (
            "system/test_user_pain_control.py::test_s11_and_10_a_start_that_is_refused_says_why_and_a_start_by_hand_clears_the_counters",
            "conformance/test_literal.py::test_enable_and_disable",
        ),
    ),
    "40: 63869": (
        "disabled is forgotten when a service is replaced",
        (
            "system/test_user_pain_shepherd.py::test_63869_what_is_disabled_stays_so_when_another_declaration_replaces_it",
            "system/test_user_pain_life.py::test_shepherd_63869_what_is_disabled_stays_so_whoever_supervises",
        ),
    ),
    "40: 63982": (
        "SIGCHLD is lost in the background",
        ("system/test_user_pain_shepherd.py::test_63982_ends_are_heard_of_in_the_background",),
    ),
    "40: 67132": (
        "a PID file that names a kernel thread is believed",
        (
            "system/test_user_pain_shepherd.py::test_67132_a_pid_file_that_names_a_kernel_thread_is_not_waited_for",
            "system/test_pid_file.py::test_a_pid_file_that_names_no_process_of_the_service",
        ),
    ),
    "40: 55223": (
        "descriptors leak",
        (
            "system/test_soak.py::test_five_hundred_starts_and_stops_leak_nothing",
            "keeper/test_descriptors.py::test_a_spawn_that_fails_leaks_nothing",
        ),
    ),
    "40: 35550": (
        "its own PID file is seen empty",
        ("system/test_user_pain_shepherd.py::test_35550_herdpys_own_pid_file_is_there_whole_or_not_at_all",),
    ),
    "40: 40672": (
        "a process group is left behind",
        (
            "system/test_user_pain_life.py::test_shepherd_40672_what_a_dead_process_leaves_gets_the_signal_first_and_is_gone_before_the_next",
            "supervisor/test_engine.py::test_the_whole_process_group_is_gone_after_a_stop",
        ),
    ),
    "40: 40981": (
        "a signal to a child before its exec stops everything",
        (
            "system/test_user_pain_shepherd.py::test_40981_a_signal_to_a_child_before_its_exec_is_the_child_s",
            "keeper/test_spawn.py::test_a_child_begins_with_no_signal_blocked_or_ignored",
        ),
    ),
    "40: 61803, 56674": (
        "a command that is waited for blocks everything",
        (
            "system/test_user_pain_control.py::test_s3_what_takes_long_blocks_nobody_else",
            "system/test_ready.py::test_commands_before_the_start_and_after_the_end",
        ),
    ),
    "40: 64665": (
        "respawns come too fast",
        (
            "system/test_user_pain_life.py::test_finit_310_the_delay_of_a_respawn_is_kept",
            "system/test_user_pain_output.py::test_8_a_tight_loop_of_respawns_ends_by_itself_and_costs_nothing_from_then_on",
        ),
    ),
    "40: 57567": (
        "descriptors are inherited",
        (
            "system/test_user_pain_life.py::test_shepherd_57567_a_service_inherits_nothing_that_is_open",
            "keeper/test_spawn.py::test_a_child_inherits_no_descriptor_but_0_1_2",
        ),
    ),
}
"""Each complaint with the tests that show it: files below tests/, and the names of functions in them."""


def test_no_complaint_is_left_out():
    wanted = {str(number) for number in range(1, 40)} | {f"S{number}" for number in range(1, 14)}
    shepherds = [
        "58485",
        "54786",
        "63717",
        "64008",
        "63869",
        "63982",
        "67132",
        "55223",
        "35550",
        "40672",
        "40981",
        "61803",
        "56674",
        "64665",
        "57567",
    ]
    numbered = {key for key in COMPLAINTS if not key.startswith("40: ")}
    assert numbered == wanted
    assert sorted(re.findall(r"\d{5}", " ".join(COMPLAINTS))) == sorted(shepherds)


@pytest.mark.parametrize("complaint", COMPLAINTS)
def test_every_test_that_is_named_is_there(complaint):
    _, tests = COMPLAINTS[complaint]
    assert tests
    for test in tests:
        path, _, name = test.partition("::")
        found = re.search(rf"^(?:async )?def {name}\(", (TESTS / path).read_text(), re.MULTILINE)
        assert found, f"{path} has no {name}"
