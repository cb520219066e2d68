"""The childhurd as a value: defaults as specified, a command line that follows from the fields."""

import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from herdpy.catalogue.common import Declaration
from herdpy.catalogue.hurd_vm import TYPE, HurdVM
from herdpy.configuration import load
from herdpy.qemu.accelerator import Accelerator
from herdpy.qemu.guix import WriteDeclaration
from herdpy.qemu.guix_image import BuildHurdImage
from herdpy.qemu.preparation import CheckImage
from herdpy.qemu.secrets import AwaitSSH, FillSecrets, SendSecretsOverTCP
from herdpy.service import Service
from herdpy.supervisor.plan import make_plan
from tests.catalogue.test_build_vm import KVM, TCG, Nowhere, facts, option
from tests.catalogue.test_build_vm import service as build_vm

GUIX = "/usr/bin/guix"


def service(
    name: str = "hurd-vm", *, uid: int = 0, guix: str | None = None, accelerator: Accelerator = TCG, **fields: object
) -> Service:
    declaration = Declaration(
        name=name,
        source=f"/services/{name}.toml",
        type=TYPE.name,
        configuration=msgspec.convert({key.replace("_", "-"): value for key, value in fields.items()}, HurdVM),
        locations=Nowhere(),
    )
    (made,) = TYPE.services(declaration, facts(uid=uid, guix=guix, accelerator=accelerator))
    return made


def command(made: Service) -> tuple[str, ...]:
    return made.attempts[0].process.command


def step(made: Service, kind: type) -> Any:
    found = [one for one in made.prepare if isinstance(one, kind)]
    assert len(found) == 1
    return found[0]


def test_the_defaults_are_the_specifications() -> None:
    hurd = HurdVM()
    assert (hurd.os, hurd.qemu, hurd.image, hurd.disk_size) == (None, "qemu-system-x86_64", None, "guess")
    assert (hurd.memory_size, hurd.options, hurd.id, hurd.net_options) == (512, ("--snapshot",), None, None)
    assert (hurd.offloading, hurd.secret_root, hurd.auto_start) == (True, None, False)
    made = service()
    assert made.provision == ("hurd-vm", "childhurd")
    shown = {fact.key: fact.text for fact in made.facts}
    assert list(shown.items())[:5] == [
        ("memory-size", "512 MiB"),
        ("image", "/state/hurd/hurd.img (volatile)"),
        ("disk-size", "guess"),
        ("options", "--snapshot"),
        ("id", "none"),
    ]
    assert shown["secret-root"] == "/etc/childhurd"
    assert shown["port-forwardings"] == "127.0.0.1:11004 -> 1004, 127.0.0.1:10022 -> 2222, 127.0.0.1:15900 -> 5900"


def test_the_command_line() -> None:
    """Whole, so that every change of it is seen."""
    directory = "/state/machines/hurd-vm2"
    assert shlex.join(command(service(id=2, image="/images/h,urd.img", memory_size=1024))) == (
        "qemu-system-x86_64 -name guest=hurd-vm2,debug-threads=on -machine pc -accel tcg,thread=multi -smp 1 -m 1024M"
        " -nodefaults -no-user-config -vga std -vnc 127.0.0.1:0,to=99 -no-reboot"
        " -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
        f" -chardev socket,id=monitor,path={directory}/qmp,server=on,wait=off -mon chardev=monitor,mode=control"
        f" -chardev socket,id=events,path={directory}/events,server=on,wait=off -mon chardev=events,mode=control"
        f" -chardev socket,id=console,path={directory}/console,server=on,wait=off"
        ",logfile=/log/hurd-vm2-console.log,logappend=on -serial chardev:console"
        " --device rtl8139,netdev=net0 --netdev user,id=net0,hostfwd=tcp:127.0.0.1:13004-:1004,"
        "hostfwd=tcp:127.0.0.1:12022-:2222,hostfwd=tcp:127.0.0.1:17900-:5900"
        " -drive if=none,id=disk0,file=/images/h,,urd.img,format=raw,snapshot=on,discard=unmap,cache=unsafe"
        " -device ide-hd,drive=disk0 --snapshot"
    )


def test_the_specifications_examples(tmp_path: Path) -> None:
    """In TOML, with what the manual computes."""
    (tmp_path / "larger.toml").write_text(f'type = "hurd-vm"\ndisk-size = {5000 * 2**20}\nmemory-size = 1024\n')
    (tmp_path / "kept.toml").write_text('type = "hurd-vm"\nimage = "/out/of/store/writable/hurd.img"\noptions = []\n')
    result = load([str(tmp_path)], {TYPE.name: TYPE}, is_root=False)
    assert result.mistakes == ()
    kept, larger = (TYPE.services(one, facts(guix=GUIX))[0] for one in result.declarations)
    assert option(command(larger), "-m") == ["1024M"]
    built = step(larger, BuildHurdImage)
    assert (built.size, built.os) == ("5242880000", None)
    (drive,) = option(command(kept), "-drive")
    assert drive == "if=none,id=disk0,file=/out/of/store/writable/hurd.img,format=raw,discard=unmap"
    assert "--snapshot" not in command(kept)
    checked = step(kept, CheckImage)
    assert checked.written


def test_a_number_moves_names_ports_and_secrets() -> None:
    made = service("third", id=3)
    assert made.provision == ("hurd-vm3", "childhurd3", "third")
    assert [port.port for port in made.ports] == [14004, 13022, 18900]
    filled = step(made, FillSecrets)
    assert (filled.root, filled.keys_directory) == ("/etc/childhurd3", "/state/keys/hurd-vm3")
    assert step(service(id=3, secret_root="/mine"), FillSecrets).root == "/mine"
    assert step(service(uid=1000, id=3), FillSecrets).root == "/secrets/childhurd3"


def test_one_declaration_stands_for_several(tmp_path: Path) -> None:
    (tmp_path / "hurd-vm.toml").write_text('type = "hurd-vm"\ninstances = [1, 2, 3]\nid = "%d"\n')
    from herdpy.catalogue import TYPES

    result = load([str(tmp_path)], TYPES, is_root=False)
    assert result.mistakes == ()
    made = [one for each in result.declarations for one in TYPES[each.type].services(each, facts())]
    plan, mistakes = make_plan(made)
    assert not mistakes
    assert plan is not None
    assert {"hurd-vm", "hurd-vm1", "childhurd2", "hurd-vm@3"} <= {name for one in made for name in one.provision}


def test_two_with_one_number_are_refused_naming_both() -> None:
    plan, mistakes = make_plan([service("one", id=1), service("two", id=1)])
    assert plan is None
    said = "\n".join(map(str, mistakes))
    assert "childhurd1" in said
    assert "/services/one.toml" in said
    assert "/services/two.toml" in said


def test_two_files_that_make_one_name_are_not_called_one() -> None:
    plan, mistakes = make_plan([service("one", id=3, provision=["x"]), service("two", id=3)])
    assert plan is None
    (ports,) = {str(mistake) for mistake in mistakes if "host port 13022" in str(mistake)}
    assert "twice" not in ports
    assert "/services/one.toml" in ports
    assert "/services/two.toml" in ports


def test_instances_without_numbers_of_their_own_are_told_how_to_have_them(tmp_path: Path) -> None:
    made = [msgspec.structs.replace(service(f"h@{number}"), source="/services/h.toml") for number in (1, 2)]
    _, mistakes = make_plan(made)
    assert 'give each instance names of its own, by "%d" where a key takes its number' in str(mistakes[0])
    made = [service(f"h@{number}", id=number) for number in (1, 2)]
    _, mistakes = make_plan(made)
    assert not mistakes


def test_a_port_that_the_build_machine_has_is_refused_naming_both() -> None:
    plan, mistakes = make_plan([build_vm(), service(id=1)])
    assert plan is None
    said = "\n".join(map(str, mistakes))
    assert "host port 11022" in said
    assert "build-vm" in said
    assert "hurd-vm1" in said
    plan, mistakes = make_plan([build_vm(port_forwardings=()), service(), service("a", id=1), service("b", id=2)])
    assert not mistakes


def test_net_options_replace_the_network_whole_and_are_understood() -> None:
    options = ["-device", "e1000,netdev=n", "-netdev", "user,id=n,hostfwd=tcp::4004-:1004,hostfwd=tcp::4022-:22"]
    made = service(net_options=options)
    line = shlex.join(command(made))
    assert shlex.join(options) in line
    assert "rtl8139" not in line
    assert [(port.port, port.address) for port in made.ports] == [(4004, "0.0.0.0"), (4022, "0.0.0.0")]
    assert made.reach is not None
    assert made.reach.ssh[-3:] == ("-p", "4022", "offloading@127.0.0.1")
    assert made.attempts[0].readiness == SendSecretsOverTCP(4004, "/etc/childhurd", 4022)
    without = service(net_options=["-netdev", "user,id=n,hostfwd=tcp::4022-:2222"], secrets="none")
    assert without.attempts[0].readiness == AwaitSSH(4022)
    assert service(net_options=[], secrets="none").attempts[0].readiness is None


def test_guix_builds_the_image_and_learns_of_the_machine_only_where_it_is_and_shall() -> None:
    made = service(guix=GUIX, os="/my/hurd.scm", disk_size="5G")
    assert step(made, BuildHurdImage) == BuildHurdImage(
        guix=GUIX, os="/my/hurd.scm", size=str(5 * 2**30), offloading=True, link="/state/guix/hurd-vm.qcow2"
    )
    assert "file=/state/guix/hurd-vm.qcow2,format=qcow2" in option(command(made), "-drive")[0]
    assert step(made, WriteDeclaration).systems == ("i586-gnu",)
    assert step(made, FillSecrets).is_trusted
    apart = service(guix=GUIX, offloading=False)
    assert not any(isinstance(one, WriteDeclaration) for one in apart.prepare)
    assert not step(apart, FillSecrets).is_trusted
    assert step(apart, FillSecrets).guix == GUIX
    assert not step(apart, BuildHurdImage).offloading
    assert not any(isinstance(one, WriteDeclaration | BuildHurdImage) for one in service().prepare)


def test_what_has_no_effect_is_told() -> None:
    assert service().cautions == ()
    assert service(guix=GUIX, disk_size="5G").cautions == ()
    (caution,) = service(disk_size="5G").cautions
    assert (caution.key, caution.words) == ("disk-size", "has no effect without Guix")
    assert [one.key for one in service(guix=GUIX, image="/i.img", disk_size=5, os="/o").cautions] == ["os", "disk-size"]


def test_a_kernel_that_qemu_loads_needs_no_disk_that_boots() -> None:
    assert step(service(), CheckImage).boots
    assert not step(service(options=["-kernel", "/gnumach"]), CheckImage).boots


def test_kvm_is_tried_before_tcg_only_where_it_may_work() -> None:
    both = service(accelerator=KVM).attempts
    assert [option(attempt.process.command, "-accel") for attempt in both] == [["kvm"], ["tcg,thread=multi"]]


def test_what_is_volatile_is_not_asked_to_power_off() -> None:
    assert service().stop.graceful is None
    assert service(options=[]).stop.graceful is not None
    assert build_vm().stop.graceful is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("id = 0", "id: expected"),
        ("id = 50", "id: its ports would be beyond 65535"),
        ("id = 'two'", "id: expected"),
        ("image = 'hurd.img'", "image: expected an absolute path"),
        ("os = 'hurd.scm'", "os: expected an absolute path"),
        ("secret-root = 'etc'", "secret-root: expected an absolute path"),
        ("disk-size = 'huge'", 'disk-size: expected bytes, a number with K, M, G or T, or "guess"'),
        ("memory-size = 0", "memory-size: "),
        ("net-options = []", "net-options: its secrets go over tcp, and no port is forwarded to the guest's 1004"),
        ("net-options = ['hostfwd=tcp:1-:1004']", "net-options: expected hostfwd=tcp:ADDRESS:PORT-ADDRESS:PORT, got"),
        ("secrets = 'virtio'", "secrets: "),
        ("offloading = 'yes'", "offloading: "),
        ("memory = 5", "did you mean memory-size?"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "hurd-vm.toml"
    file.write_text(f'type = "hurd-vm"\n{text}\n')
    said = "\n".join(map(str, load([str(tmp_path)], {TYPE.name: TYPE}, is_root=False).mistakes))
    assert said.startswith(f"{file}:"), said
    assert problem in said
