"""The type ``mount``: a file system, mounted while the service runs."""

import os
from collections.abc import Iterator

from herdpy.catalogue.common import Common, Declaration, ServiceType, as_service, path_mistakes
from herdpy.catalogue.facts import HostFacts
from herdpy.preparation.mounting import Mount, Unmount
from herdpy.service import Service, Stop, plain


class MountConfiguration(Common, frozen=True, kw_only=True):
    """The fields of a declaration of type ``mount``."""

    mount_point: str
    """The directory, as an absolute path. The service is also called ``file-system-MOUNT-POINT``."""
    file_system: str
    """Its type, as ``mount -t`` takes it: ``ext4``, ``tmpfs``, ``nfs4``, ``binfmt_misc``, ``none`` for a bind mount."""
    device: str = "none"
    """What is mounted: a device, ``UUID=...``, a directory for a bind mount; ``none`` for what needs none."""
    options: tuple[str, ...] = ()
    """As ``mount -o`` takes them: ``["ro", "noatime"]``."""
    create_mount_point: bool = False
    """Whether the directory is made when there is none."""
    unmount: bool = True
    """Whether it is unmounted at the stop. What was mounted there already at the start, as declared, is left there."""

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        yield from path_mistakes("mount-point", self.mount_point)
        if os.path.normpath(self.mount_point) in {"/", "//"}:
            yield "mount-point", "nothing can be mounted over the root directory of a running system"
        elif os.path.isabs(self.mount_point) and os.path.normpath(self.mount_point) != self.mount_point:
            yield "mount-point", f"write it as {os.path.normpath(self.mount_point)}"
        for key in ("file_system", "device"):
            value = getattr(self, key)
            if not value or value.startswith("-") or "\0" in value:
                yield key.replace("_", "-"), f"expected what mount(8) takes, got {value!r}"
        for index, option in enumerate(self.options):
            if not option or "," in option or "\0" in option:
                yield f"options[{index}]", f"expected one option, got {option!r}"


def services(declaration: Declaration, facts: HostFacts) -> tuple[Service, ...]:
    """One service without a process."""
    configuration: MountConfiguration = declaration.configuration
    mount = Mount(
        device=configuration.device,
        mount_point=configuration.mount_point,
        file_system=configuration.file_system,
        options=configuration.options,
        create_mount_point=configuration.create_mount_point,
    )
    return (
        as_service(
            declaration,
            provision=tuple(dict.fromkeys((*declaration.provision, f"file-system-{configuration.mount_point}"))),
            documentation=f"The {configuration.file_system} file system on {configuration.mount_point}.",
            prepare=(mount,),
            stop=Stop(graceful=Unmount(mount_point=configuration.mount_point) if configuration.unmount else None),
            facts=(
                plain("type", "type", declaration.type),
                plain("device", "device", configuration.device),
                plain("mount-point", "mount-point", configuration.mount_point),
                plain("file-system", "file-system", configuration.file_system),
                plain("options", "options", configuration.options),
                plain("unmount", "unmount", configuration.unmount),
                plain("source", "source", declaration.source),
            ),
        ),
    )


TYPE = ServiceType(
    name="mount",
    configuration=MountConfiguration,
    services=services,
    documentation="A file system that is mounted while the service runs.",
)
