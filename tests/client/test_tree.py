"""``herd tree``: each service under what requires it, once at length."""

import json

from .conftest import Herd, Server, reply
from .test_herd import NOW, service

HOST = [
    service("root", status="running", running="#t"),
    service("vm", requires="(libvirt networking)", status="running", running="12"),
    service("libvirtd", provides="(libvirtd libvirt)", requires="(virtlogd)", startup_failures=f"({NOW})"),
    service("virtlogd", **{"enabled?": "#f"}),
    service("networking", **{"one-shot?": "#t"}),
    service("other", requires="(libvirtd gone)"),
]


async def test_requirements_hang_below_what_requires_them(server: Server, herd: Herd) -> None:
    server.answers["status root"] = reply(f"(({' '.join(HOST)}))")
    expected = """\
root: running
├─ other: stopped
│  ├─ gone: nobody provides it
│  └─ libvirtd: failed to start
│     └─ virtlogd: stopped, disabled
└─ vm: running
   ├─ libvirtd: failed to start (see above)
   └─ networking: stopped, one-shot
"""
    assert (await herd("tree", LC_ALL="de_DE.UTF-8")).stdout.decode() == expected
    plain = expected.replace("├─", "|-").replace("└─", "`-").replace("│", "|")
    for locale in ("C", "de_DE.ISO-8859-1", ""):
        assert (await herd("tree", LC_ALL=locale)).stdout.decode() == plain, locale
    assert server.commands[0].startswith("(shepherd-command (version 0) (action status) (service root) (arguments ())")


async def test_members_hang_below_their_target(server: Server, herd: Herd) -> None:
    web = service("web", requires="(db)")
    server.answers["status root"] = reply(
        f"(({service('root')} {service('all', members='(web db)')} {web} {service('db')}))"
    )
    assert (await herd("tree")).stdout.decode() == (
        "root: stopped\n`- all: stopped\n   |- db: stopped\n   `- web: stopped\n      `- db: stopped\n"
    )
    assert '  "all" -> "web";' in (await herd("graph")).stdout.decode().splitlines()


async def test_the_tree_of_one(server: Server, herd: Herd) -> None:
    server.answers["status root"] = reply(f"(({' '.join(HOST)}))")
    below = "libvirtd: failed to start\n`- virtlogd: stopped, disabled\n"
    assert (await herd("tree", "libvirt")).stdout.decode() == below
    done = await herd("tree", "nope")
    assert (done.returncode, done.stderr) == (1, b"herd: error: service 'nope' could not be found\n")


async def test_json(server: Server, herd: Herd) -> None:
    server.answers["status root"] = reply(f"(({' '.join(HOST)}))")
    rows = json.loads((await herd("tree", "--json")).stdout)
    assert [(row["depth"], row["name"], row["status"]) for row in rows][:5] == [
        (0, "root", "running"),
        (1, "other", "stopped"),
        (2, "gone", None),
        (2, "libvirtd", "stopped"),
        (3, "virtlogd", "stopped"),
    ]
    assert [row["name"] for row in rows if row["repeated"]] == ["libvirtd"]


async def test_a_long_chain_and_many_ways_through_stay_as_long_as_the_plan(server: Server, herd: Herd) -> None:
    chain = [service(f"s{number}", requires=f"(s{number + 1})") for number in range(1500)]
    diamonds = [service(f"d{number}", requires=f"(e{number} f{number})") for number in range(40)]
    for side in "ef":
        diamonds += [service(f"{side}{number}", requires=f"(d{number + 1})") for number in range(40)]
    server.answers["status root"] = reply(f"(({service('root')} {' '.join(chain + diamonds)}))")
    done = await herd("tree")
    assert (done.returncode, done.stdout.count(b"\n")) == (0, 1 + 1501 + 4 * 40 + 1)


async def test_a_cycle_of_another_server_is_shown_and_ends(server: Server, herd: Herd) -> None:
    services = [service("root"), service("a", requires="(b)"), service("b", requires="(a)")]
    server.answers["status root"] = reply(f"(({' '.join(services)}))")
    assert (await herd("tree")).stdout.decode() == (
        "root: stopped\n|- a: stopped\n|  `- b: stopped\n|     `- a: stopped (see above)\n`- b: stopped (see above)\n"
    )
