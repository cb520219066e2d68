"""The type ``qemu-binfmt``: the values it makes."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from herdpy.binfmt.change import PlatformsChange
from herdpy.binfmt.entry import entry_of
from herdpy.binfmt.following import Follow
from herdpy.binfmt.platforms import PLATFORMS
from herdpy.binfmt.registration import Become, Interpreters, Register, Unregister
from herdpy.catalogue import TYPES
from herdpy.catalogue.common import Declaration
from herdpy.catalogue.qemu_binfmt import QemuBinfmtConfiguration, services
from herdpy.configuration import declared_services
from herdpy.preparation.mounting import Mount
from herdpy.service import Caution, Service
from tests.catalogue.test_libvirt import Nowhere, facts


def made(*platforms: str, **fields: Any) -> Service:
    configuration = msgspec.convert({"platforms": platforms, **fields}, QemuBinfmtConfiguration)
    assert list(configuration.check()) == []
    declaration = Declaration(
        name="qemu-binfmt", source="/q.toml", type="qemu-binfmt", configuration=configuration, locations=Nowhere()
    )
    [service] = services(declaration, facts())
    return service


def entry(name: str, directory: str = "/usr/bin", flags: str = "FP"):
    return entry_of(PLATFORMS[name], f"{directory}/qemu-{name}-static", flags)


def test_the_specifications_example() -> None:
    service = made("arm", "aarch64")
    wanted = (entry("arm"), entry("aarch64"))
    interpreters, _, mount, register = service.prepare
    assert isinstance(interpreters, Interpreters)
    assert interpreters.paths == ("/usr/bin/qemu-arm-static", "/usr/bin/qemu-aarch64-static")
    assert interpreters.where == "qemu in /q.toml"
    assert isinstance(mount, Mount)
    assert mount.mount_point == "/proc/sys/fs/binfmt_misc"
    assert register == Register(entries=wanted)
    assert service.stop.graceful == Unregister(entries=wanted)
    assert service.attendant == Follow(entries=wanted)
    assert service.attempts == ()
    assert [action.name for action in service.actions] == ["platforms", "lookup"]
    assert service.cautions == ()


def test_where_the_emulators_are() -> None:
    [step] = [step for step in made("arm", qemu="/opt/qemu/bin/qemu-{platform}").prepare if isinstance(step, Register)]
    assert step.entries[0].interpreter == "/opt/qemu/bin/qemu-arm"
    [step] = [step for step in made("arm", qemu="/opt/bin").prepare if isinstance(step, Register)]
    assert step.entries[0].interpreter == "/opt/bin/qemu-arm-static"


def test_no_platform_is_no_mistake_but_told() -> None:
    assert made().cautions == (Caution("platforms", "is empty: no platform's programs are run"),)


def test_without_a_platform_it_still_takes_qemu(tmp_path: Path) -> None:
    step = made(qemu=str(tmp_path)).prepare[0]
    assert isinstance(step, Interpreters)
    assert (step.lack() or "").startswith(
        f"not installed: there is no {tmp_path}/qemu-i386-static and 30 more; apt-get "
    )
    (tmp_path / "qemu-sh4-static").touch(0o755)
    assert step.lack() is None


def test_a_change_is_just_the_difference() -> None:
    before, after = made("arm", "aarch64"), made("aarch64", "riscv64")
    assert isinstance(after.on_change, PlatformsChange)
    effect = after.on_change.effect(before, after)
    assert (effect.kind, effect.words) == ("now", "registers riscv64; removes arm")
    assert effect.step == Become(before=(entry("arm"), entry("aarch64")), after=(entry("aarch64"), entry("riscv64")))


def test_another_place_or_flag_is_the_same_platform_registered_anew() -> None:
    after = made("arm", flags="FPC")
    assert isinstance(after.on_change, PlatformsChange)
    assert after.on_change.effect(made("arm"), after).words == "registers anew arm"


def test_what_has_nothing_to_do_with_the_table_needs_no_step() -> None:
    after = made("arm", documentation="Mine.")
    assert isinstance(after.on_change, PlatformsChange)
    effect = after.on_change.effect(made("arm"), after)
    assert (effect.kind, effect.step) == ("now", None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('platforms = ["armhf"]', "platforms[0]: there is no platform 'armhf'; did you mean arm or "),
        ('platforms = ["arm", "arm"]', "platforms[1]: arm is there twice"),
        ('platforms = "arm"', "platforms: expected a list"),
        ('platforms = ["arm", "i386"]', "platforms[1]: this host (x86_64) is of i386's own family"),
        ('platforms = ["x86_64"]', "platforms[0]: this host (x86_64) is of x86_64's own family"),
        ('qemu = "qemu"', "qemu: expected an absolute path"),
        ('qemu = "/a:b"', "qemu: the kernel's table takes no path with a colon"),
        ('flags = "F"', "flags: expected F and P"),
        ('flags = "FPX"', "flags: expected F and P"),
        ('flags = "FPP"', "flags: expected F and P"),
        ('package = "qemu"', "package: unknown key"),
    ],
)
def test_a_wrong_value_is_told_with_its_line_and_key(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "q.toml").write_text(f'type = "qemu-binfmt"\n{line}\n')
    [mistake] = declared_services([str(tmp_path)], TYPES, facts(1000)).mistakes
    assert str(mistake).startswith(f"{tmp_path}/q.toml:2: ")
    assert words in str(mistake)
