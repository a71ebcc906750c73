"""What can go wrong with hooks, at real guests: whatever happens, the guest thaws and the application goes on.

The rendered hooks run as in the container `compute`, without Velero.
"""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from app.core.annotations import POST
from tests.infra.controlplane.waiting import wait_for
from tests.infra.guests import ledger
from tests.infra.guests.compute import Done
from tests.infra.guests.domain import Agent
from tests.infra.guests.guest import Guest
from tests.infra.guests.hooks import Hooks, story
from tests.infra.guests.hypervisor import Hypervisor

pytestmark = pytest.mark.long

FROZEN = "vm-consistency: frozen"
THAWED = "vm-consistency: thawed, was frozen until then"
NO_EXEC = "quiesce: not started: no guest agent, .*"


Start = Callable[..., AbstractContextManager[Guest]]


@pytest.fixture(scope="module")
def start(hypervisor: Hypervisor) -> Start:
    """Have a guest for as long as a `with` block lasts: each costs the others some of the processor."""

    @contextmanager
    def start(name: str, agent: Agent = Agent.NORMAL) -> Iterator[Guest]:
        guest = hypervisor.start("failures", name, agent=agent)
        yield guest
        guest.close()

    return start


@pytest.fixture(scope="module")
def meanwhile(
    request: pytest.FixtureRequest, start: Start, hypervisor: Hypervisor
) -> Iterator[dict[str, Future[None]]]:
    """The tests that mostly wait, each at a guest of its own, while the others run; those that were chosen."""
    chosen = {item.name for item in request.session.items}
    tests = [test for test in (hung, forgotten, paused) if f"test_meanwhile[{test.__name__}]" in chosen]

    def run(test: Callable[..., None]) -> None:
        with start(test.__name__) as guest:
            test(guest, hypervisor)

    with ThreadPoolExecutor(max_workers=1) as thread:  # more guests at once could not keep the hooks' time limits
        yield {test.__name__: thread.submit(run, test) for test in tests}


@pytest.fixture(scope="module")
def well(start: Start, meanwhile: object) -> Iterator[Guest]:
    with start("well") as guest:
        ledger.install(guest.wait_agent())
        yield guest


@pytest.fixture
def guest(well: Guest) -> Iterator[Guest]:
    """A guest with the ledger; what a test does to it must have left nothing held."""
    ledger.heal(well)
    yield well
    ledger.assert_free(well)


Render = Callable[..., Hooks]


@pytest.fixture
def render(guest: Guest, hypervisor: Hypervisor) -> Render:
    """The guest's hooks by profile (None: level filesystem) and by what `ledger.policy` takes."""

    def render(profile: str | None = "ledger", **options: Any) -> Hooks:
        return Hooks(guest, hypervisor.environment, ledger.policy(**options), profile)

    return render


def failed(done: Done, phase: str, why: str) -> None:
    """The hook failed with one line of ours on stderr, which matches."""
    assert done.exit_code == 1, done
    assert re.fullmatch(rf"vm-consistency: {phase} hook failed: {why}", done.stderr.strip()), done


def succeeded(done: Done, line: str) -> None:
    """The hook succeeded, and its last line says so."""
    assert (done.exit_code, done.stderr, done.stdout.splitlines()[-1:]) == (0, "", [line]), done


def test_checkpoint_freeze_and_thaw_with_the_built_in_profile(guest: Guest, render: Render) -> None:
    hooks, before = render("postgresql"), len(guest.events())
    succeeded(hooks.pre(), FROZEN)
    assert guest.frozen()
    succeeded(hooks.post(), THAWED)
    assert story(guest.events()[before:]) == ["quiesce", "freeze", "thaw"]
    assert "checkpoint complete" in guest.must_run("cat /data/postgresql/log")


def test_steps_run_in_order_around_the_freeze(guest: Guest, render: Render) -> None:
    hooks, before = render(), len(guest.events())
    succeeded(hooks.pre(), FROZEN)
    assert guest.frozen()
    succeeded(hooks.post(), THAWED)
    assert story(guest.events()[before:]) == ["quiesce", "freeze", "thaw", "resume"]
    assert ledger.told(guest) == ["lock", "checkpoint", "freeze", "thaw", "unlock", "announce"]


def test_the_application_is_held_between_the_hooks(guest: Guest, render: Render) -> None:
    hooks = render()
    succeeded(hooks.pre(), FROZEN)
    guest.thaw()  # to ask in the window; the post hook has to notice
    assert ledger.held(guest)
    failed(hooks.post(), "post", "freeze: the guest was not frozen any more")


def test_a_failing_step_freezes_nothing_and_resumes(guest: Guest, render: Render) -> None:
    hooks = render("troubled", trouble=r"""printf 'vm-consistency: frozen\n\033[2Jno disk left\n'; exit 3""")
    failed(hooks.pre(), "pre", r"quiesce: step trouble ended with 3: vm-consistency: frozen \[2Jno disk left")
    assert ledger.told(guest) == ["lock", "unlock"]


def test_a_step_that_takes_too_long(guest: Guest, render: Render) -> None:
    hooks = render("troubled", trouble="sleep 600", trouble_seconds=3)
    failed(hooks.pre(), "pre", "quiesce: step trouble ended with 124.*")
    assert ledger.told(guest) == ["lock", "unlock"]


def test_a_freeze_that_fails(guest: Guest, render: Render) -> None:
    ledger.trouble_freeze(guest, "exit 1")
    failed(render().pre(), "pre", "freeze: virt-freezer ended with 1: .*")
    assert ledger.told(guest) == ["lock", "checkpoint", "freeze", "unlock", "announce"]


@pytest.mark.parametrize("profile", ["ledger", "postgresql", None])
def test_a_freeze_that_finishes_after_we_gave_up(guest: Guest, render: Render, profile: str | None) -> None:
    ledger.trouble_freeze(guest, "sleep 5")
    before = len(guest.events())
    failed(render(profile, freeze="{timeout: 2s}").pre(), "pre", "freeze: virt-freezer ended with 124: .*")
    happened = [(event.call, event.state) for event in guest.events()[before:]]
    assert happened.index(("freeze", "done")) < happened.index(("thaw", "done"))


def test_an_agent_that_hangs_from_the_start(guest: Guest, render: Render) -> None:
    guest.stop_agent()
    try:
        done = render().pre()
    finally:
        guest.continue_agent()
    failed(done, "pre", NO_EXEC)
    # The agent starts the keeper now, which waits for its hook, and gives up before the first step.
    ledger.wait_until_free(guest, 90)
    assert ledger.told(guest) == []


def test_a_guest_that_is_paused(guest: Guest, render: Render) -> None:
    guest.pause()
    try:
        application, filesystem = render().pre(), render(None).pre()
        unproven = render(None, requireFrozen="false").pre()
    finally:
        guest.resume()
    failed(application, "pre", NO_EXEC)
    failed(filesystem, "pre", "freeze: virt-freezer froze nothing")
    assert (unproven.exit_code, "VM domain not running" in unproven.stderr) == (0, True)


def test_the_pre_hook_again_in_the_window_fails_and_undoes_nothing(guest: Guest, render: Render) -> None:
    hooks, before = render(), len(guest.events())
    succeeded(hooks.pre(), FROZEN)
    failed(hooks.pre(), "pre", "the guest is frozen already: another backup or snapshot is at work")
    succeeded(hooks.post(), THAWED)
    failed(hooks.post(), "post", "freeze: the guest was not frozen any more; nothing was held: .*")
    assert story(guest.events()[before:]) == ["quiesce", "freeze", "thaw", "resume"]


def test_two_runs_at_once_have_one_winner(guest: Guest, render: Render) -> None:
    hooks = render()
    both = [hooks.start_pre(), hooks.start_pre()]
    winner, loser = sorted((hooks.end(each) for each in both), key=lambda done: done.exit_code)
    succeeded(winner, FROZEN)
    failed(loser, "pre", ".*")
    assert guest.frozen()
    succeeded(hooks.post(), THAWED)
    assert ledger.told(guest) == ["lock", "checkpoint", "freeze", "thaw", "unlock", "announce"]


def test_a_post_hook_while_the_application_is_still_being_quiesced(guest: Guest, render: Render) -> None:
    hooks = render("troubled", trouble="until [ -e /run/go-on ]; do sleep 0.1; done", trouble_seconds=60)
    pre = hooks.start_pre()
    wait_for(lambda: "lock" in ledger.told(guest), what="the first step")
    post = hooks.start_post()
    guest.must_run("until [ -e /run/vm-consistency/end.* ]; do sleep 0.1; done; touch /run/go-on")
    early = hooks.end(post, POST)
    failed(early, "post", "freeze: the guest was not frozen any more; the application was still being quiesced")
    failed(hooks.end(pre), "pre", "quiesce: ended")
    assert ledger.told(guest) == ["lock", "unlock"]


def test_a_guest_without_an_agent(start: Start, hypervisor: Hypervisor) -> None:
    with start("none", Agent.NONE) as guest:
        guest.wait_console("ready without an agent")

        def pre(profile: str | None, required: str) -> Done:
            return Hooks(guest, hypervisor.environment, ledger.policy(requireFrozen=required), profile).pre()

        unproven = pre(None, "false")
        assert (unproven.exit_code, "No guest agent" in unproven.stderr) == (0, True)
        failed(pre(None, "true"), "pre", "freeze: virt-freezer froze nothing")
        for required in ("true", "false"):
            failed(pre("ledger", required), "pre", NO_EXEC)


def test_guest_exec_forbidden_as_on_rhel(start: Start, hypervisor: Hypervisor) -> None:
    with start("rhel", Agent.BLOCK_EXEC) as guest:
        guest.wait_agent()
        failed(Hooks(guest, hypervisor.environment, ledger.policy(), "ledger").pre(), "pre", NO_EXEC)
        assert not guest.frozen()
        filesystem = Hooks(guest, hypervisor.environment, ledger.policy(), None)
        succeeded(filesystem.pre(), FROZEN)
        assert guest.frozen()
        succeeded(filesystem.post(), THAWED)
        assert not guest.frozen()


def forgotten(guest: Guest, hypervisor: Hypervisor) -> None:
    """No post hook comes: the safety timer thaws, the dead-man resumes, and a late post hook says so.

    Then the pre hook itself is killed while the guest freezes.
    """
    ledger.install(guest.wait_agent())
    hooks = Hooks(guest, hypervisor.environment, ledger.policy(), "ledger")
    succeeded(hooks.pre(), FROZEN)
    wait_for(lambda: not guest.frozen() or None, 40, what="the safety timer")
    assert ledger.held(guest)
    ledger.wait_until_free(guest, 60)
    assert story(guest.events()) == ["quiesce", "freeze", "safety-timer", "thaw"]
    assert ledger.told(guest) == ["lock", "checkpoint", "freeze", "thaw", "unlock", "announce"]
    failed(hooks.post(), "post", "freeze: .* not frozen any more; the application was resumed before this hook: .*")

    ledger.heal(guest)
    ledger.trouble_freeze(guest, "sleep 3")
    before = len(guest.events())
    with hooks.start_pre() as hook:
        wait_for(lambda: "freeze" in story(guest.events()[before:]) or None, 60, what="the freeze")
        hook.kill()
    wait_for(lambda: story(guest.events()[before:])[-1] == "thaw" or None, 60, what="the safety timer")
    ledger.wait_until_free(guest, 60)


def paused(guest: Guest, hypervisor: Hypervisor) -> None:
    """The guest is paused in the window: the post hook can do nothing, and says so.

    The pause has to end before the automatic thaw: see test_guest.py for what a thaw of a paused guest comes to.
    """
    ledger.install(guest.wait_agent())
    hooks = Hooks(guest, hypervisor.environment, ledger.policy(thaw="{timeout: 2s}", autoThaw="35s"), "ledger")
    succeeded(hooks.pre(), FROZEN)
    guest.pause()
    try:
        after = hooks.post()
    finally:
        guest.resume()
    failed(after, "post", ".*domain not running.*")
    ledger.wait_until_free(guest, 90)
    assert ledger.told(guest)[-2:] == ["unlock", "announce"]


def hung(guest: Guest, hypervisor: Hypervisor) -> None:
    """The agent stops answering in a step, then in a freeze, and comes back when the pre hook has given up."""
    ledger.install(guest.wait_agent())
    stop = "kill -STOP $(pidof qemu-ga)"
    short = ledger.policy(trouble=stop, step_seconds=20, trouble_seconds=5)
    in_step = Hooks(guest, hypervisor.environment, short, "troubled")
    failed(in_step.pre(), "pre", "quiesce: .*")
    guest.continue_agent()
    ledger.wait_until_free(guest, 90)
    assert ledger.told(guest) == ["lock", "unlock"]  # by the dead-man, for nobody could tell the keeper

    ledger.heal(guest)
    ledger.trouble_freeze(guest, stop)
    in_freeze = Hooks(guest, hypervisor.environment, ledger.policy(), "ledger")
    failed(in_freeze.pre(), "pre", "freeze: .*; the guest did not say that it is thawed.*")
    guest.continue_agent()
    ledger.wait_until_free(guest, 90)
    assert ledger.told(guest) == ["lock", "checkpoint", "freeze", "unlock", "announce", "thaw"]


@pytest.mark.parametrize("test", [forgotten, paused, hung])
def test_meanwhile(meanwhile: dict[str, Future[None]], test: Callable[..., None]) -> None:
    meanwhile[test.__name__].result()
