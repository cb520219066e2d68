"""The virtual build machine as a value: defaults as specified, a command line that follows from the fields."""

import datetime
import shlex

import pytest

from herdpy.catalogue.build_vm import CPU_MODELS, TYPE, VirtualBuildMachine, model_of
from herdpy.catalogue.common import Declaration
from herdpy.catalogue.facts import Directories, HostFacts
from herdpy.configuration import load
from herdpy.mistake import Place
from herdpy.qemu.accelerator import Accelerator
from herdpy.qemu.life_sign import LifeSign
from herdpy.qemu.preparation import CheckPorts
from herdpy.supervisor.plan import make_plan

TCG = Accelerator(kvm=False, reason="there is no /dev/kvm")
KVM = Accelerator(kvm=True, reason="/dev/kvm opens and the processor has vmx")


class Nowhere:
    """The locations of a declaration that no file holds."""

    def place(self, key: str) -> Place:
        return Place(file="/services/build-vm.toml", key=key)

    def place_of_value(self, value: object, key: str = "") -> Place:
        return self.place(key)


def facts(*, uid: int = 0, accelerator: Accelerator = TCG, guix: str | None = None) -> HostFacts:
    directories = Directories(
        state="/state",
        log="/log",
        configuration="/etc/herdpy",
        runtime="/run/herdpy",
        socket="/run/s",
        secrets="/secrets",
    )
    return HostFacts(
        uid=uid,
        user="someone",
        home="/home",
        directories=directories,
        system="x86_64-linux",
        guix=guix,
        accelerator=accelerator,
    )


def service(name: str = "build-vm", host: HostFacts | None = None, directory: str = "/services", **fields: object):
    declaration = Declaration(
        name=name,
        source=f"{directory}/{name}.toml",
        type=TYPE.name,
        configuration=VirtualBuildMachine(**fields),
        locations=Nowhere(),
    )
    (made,) = TYPE.services(declaration, host or facts())
    return made


def option(command: tuple[str, ...], name: str) -> list[str]:
    """The arguments of each occurrence of an option."""
    return [command[index + 1] for index, word in enumerate(command) if word == name]


@pytest.mark.parametrize(
    ("directory", "file"),
    [("/usr/share/herdpy/services", "/etc/herdpy/services/build-vm.toml"), ("/mine", "/mine/build-vm.toml")],
)
def test_nobody_is_told_to_edit_what_was_shipped(directory: str, file: str):
    (ports,) = [step for step in service(directory=directory).prepare if isinstance(step, CheckPorts)]
    assert ports.where == f"port-forwardings in {file}"


def test_the_defaults_are_the_specifications():
    machine = VirtualBuildMachine()
    assert (machine.cpu_count, machine.memory_size, machine.auto_start) == (4, 2048, False)
    assert [(forward.host, forward.guest) for forward in machine.port_forwardings] == [(11022, 22), (11004, 1004)]
    assert machine.date == datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    facts_of = {fact.label: fact.text for fact in service().facts}
    assert list(facts_of.items())[:4] == [
        ("CPU", "Skylake-Client"),
        ("number of CPU cores", "4"),
        ("memory size", "2048 MiB"),
        ("initial date", "2020-01-01T00:00:00Z"),
    ]
    assert facts_of["systems"] == "x86_64-linux"


@pytest.mark.parametrize(
    ("year", "model"), [(1999, "core2duo"), *((year, model) for year, model in CPU_MODELS), (2026, "Skylake-Client")]
)
def test_the_processor_matches_the_date(year, model):
    assert model_of(datetime.datetime(year, 7, 1, tzinfo=datetime.UTC)) == model
    (cpu,) = option(service(date=datetime.datetime(year, 7, 1)).attempts[0].process.command, "-cpu")
    assert cpu == f"{model},check=off"  # it is emulated here: what TCG leaves out is known


@pytest.mark.parametrize(
    ("accelerator", "model", "cpu"),
    [
        ("kvm", "Nehalem", "Nehalem"),
        ("tcg", "Nehalem,+avx", "Nehalem,+avx,check=off"),
        ("tcg", "Nehalem,enforce", "Nehalem,enforce"),
        ("tcg", "Nehalem,check=on", "Nehalem,check=on"),
    ],
)
def test_a_processor_is_checked_where_something_could_be_wrong_with_it(accelerator, model, cpu):
    command = service(accelerator=accelerator, cpu=model).attempts[0].process.command
    assert option(command, "-cpu") == [cpu]


def test_the_years_between_keep_the_model_before():
    assert model_of(datetime.datetime(2007, 1, 1)) == "core2duo"
    assert model_of(datetime.datetime(2009, 1, 1)) == "Nehalem"


def test_the_command_line():
    """Whole, so that every change of it is seen."""
    command = service(memory_size=1024, cpu_count=8, cpu="Westmere").attempts[0].process.command
    directory = "/state/machines/build-vm"
    disk = option(command, "-drive")[0].partition("file=")[2].partition("/disk.qcow2")[0]
    assert shlex.join(command).replace(disk, "IMAGE").partition(" -append ")[0] == (
        "qemu-system-x86_64 -name guest=build-vm,debug-threads=on -machine q35,graphics=off -accel tcg,thread=multi"
        " -cpu Westmere,check=off -smp 8 -m 1024M -rtc base=2020-01-01T00:00:00,clock=vm -nodefaults -no-user-config"
        " -display none -no-reboot -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
        " -device pvpanic-pci -device virtio-rng-pci"
        f" -chardev socket,id=monitor,path={directory}/qmp,server=on,wait=off -mon chardev=monitor,mode=control"
        f" -chardev socket,id=events,path={directory}/events,server=on,wait=off -mon chardev=events,mode=control"
        f" -chardev socket,id=console,path={directory}/console,server=on,wait=off"
        ",logfile=/log/build-vm-console.log,logappend=on"
        " -serial chardev:console -device virtio-serial-pci"
        f" -chardev socket,id=secrets,path={directory}/secrets,server=on,wait=off"
        " -device virtserialport,chardev=secrets,name=org.herdpy.secrets.0"
        f" -chardev socket,id=agent,path={directory}/agent,server=on,wait=off"
        " -device virtserialport,chardev=agent,name=org.qemu.guest_agent.0"
        " -netdev user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:11022-:22,hostfwd=tcp:127.0.0.1:11004-:1004"
        " -device virtio-net-pci,netdev=net0,romfile="
        " -drive if=none,id=disk0,file=IMAGE/disk.qcow2,format=qcow2,snapshot=on,discard=unmap,cache=unsafe"
        " -device virtio-blk-pci,drive=disk0 -kernel IMAGE/vmlinuz -initrd IMAGE/initrd"
    )


def test_the_clock_is_told_in_utc():
    zone = datetime.timezone(datetime.timedelta(hours=2))
    command = service(date=datetime.datetime(2012, 3, 4, 1, 30, tzinfo=zone)).attempts[0].process.command
    assert option(command, "-rtc") == ["base=2012-03-03T23:30:00,clock=vm"]


def test_an_open_network_and_a_kept_disk():
    made = service(network="open", persistent=True)
    command = made.attempts[0].process.command
    assert option(command, "-netdev")[0].startswith("user,id=net0,restrict=off,")
    assert option(command, "-drive") == [
        "if=none,id=disk0,file=/state/disks/build-vm/disk.qcow2,format=qcow2,snapshot=off,discard=unmap"
    ]


def test_an_image_of_ones_own_boots_by_itself_and_takes_its_secrets_over_tcp():
    made = service(image="/images/a,b.img")
    command = made.attempts[0].process.command
    assert "-kernel" not in command
    assert option(command, "-drive")[0].startswith("if=none,id=disk0,file=/images/a,,b.img,format=raw,snapshot=on")
    assert type(made.attempts[0].readiness).__name__ == "SendSecretsOverTCP"
    assert type(service(image="/i.qcow2", secrets="none").attempts[0].readiness).__name__ == "AwaitSSH"
    assert type(service().attempts[0].readiness).__name__ == "SendSecrets"


def test_kvm_is_tried_before_tcg_only_where_it_may_work():
    assert [option(attempt.process.command, "-accel") for attempt in service().attempts] == [["tcg,thread=multi"]]
    both = service(host=facts(accelerator=KVM)).attempts
    assert [option(attempt.process.command, "-accel") for attempt in both] == [["kvm"], ["tcg,thread=multi"]]
    # A minute for a sign of life, then the whole time; there is no other way after TCG.
    assert isinstance(both[0].readiness, LifeSign)
    assert (both[0].readiness.patience, both[0].readiness.readiness) == (60, both[1].readiness)
    assert both[0].readiness.console_log == "/log/build-vm-console.log"
    assert [attempt.timeout for attempt in both] == [300, 300]
    assert service(host=facts(accelerator=KVM), start_timeout=20.0).attempts[0].readiness.patience == 20
    assert not isinstance(service(accelerator="kvm", host=facts(accelerator=KVM)).attempts[0].readiness, LifeSign)
    assert [len(service(accelerator=choice, host=facts(accelerator=KVM)).attempts) for choice in ("kvm", "tcg")] == [
        1,
        1,
    ]


def test_root_runs_qemu_as_another_user_and_others_as_themselves():
    assert service().attempts[0].process.user == "herdpy-vm"
    assert service(host=facts(uid=1000)).attempts[0].process.user is None
    names = [type(step).__name__ for step in service(host=facts(uid=1000)).prepare]
    assert "EnsureUser" not in names


def test_guix_learns_of_the_machine_only_where_it_is():
    assert "WriteDeclaration" not in [type(step).__name__ for step in service().prepare]
    assert "WriteDeclaration" in [type(step).__name__ for step in service(host=facts(guix="/usr/bin/guix")).prepare]


def test_equal_declarations_make_equal_services():
    """What a reload will rest on."""
    assert service() == service()
    assert service() != service(cpu_count=2)


def test_two_machines_with_one_port_are_refused_naming_both_files():
    plan, mistakes = make_plan([service("one"), service("two")])
    assert plan is None
    said = "\n".join(map(str, mistakes))
    assert "11022" in said
    assert "/services/one.toml" in said
    assert "/services/two.toml" in said


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("cpu-count = 0", 2, "cpu-count"),
        ("memory-size = 12", 2, "memory-size"),
        ("date = 'yesterday'", 2, "expected a date and time"),
        ("accelerator = 'hvf'", 2, "accelerator"),
        ("image = 'disk.qcow2'", 2, "expected an absolute path"),
        ("image = { size = '10' }", 2, "expected bytes, or a number with K, M, G or T"),
        ("image = { siz = '10G' }", 2, "did you mean"),
        (
            "port-forwardings = [{ host = 1, guest = 2 }, { host = 1, guest = 3 }]",
            2,
            "port 1 of the host is forwarded twice",
        ),
        ("port-forwardings = [{ host = 70000, guest = 2 }]", 2, "port-forwardings[0].host"),
        ("secrets = 'tcp'\nport-forwardings = []", 2, "no port is forwarded to the guest's 1004"),
        ("image = '/i.img'\nport-forwardings = [{ host = 12022, guest = 22 }]", 1, "secrets: its secrets go over tcp"),
        ("secrets = 'none'\nport-forwardings = []", 2, "forwarded to port 22"),
        ("image-format = 'raw'", 2, "goes with the path of your own"),
        ("auto-start? = true", 2, ""),
        ("autostart = true", 2, "did you mean auto-start?"),
        ("name = 'a b'", 2, "a service's name is made of"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path, text, line, problem):
    file = tmp_path / "vm.toml"
    file.write_text(f'type = "virtual-build-machine"\n{text}\n')
    file.chmod(0o600)
    mistakes = load([str(tmp_path)], {TYPE.name: TYPE}, is_root=False).mistakes
    assert mistakes, "no mistake was found"
    said = str(mistakes[0])
    assert said.startswith(f"{file}:{line}:"), said
    assert problem in said
