"""What mypy accepts and refuses of a declaration: wrong wiring is found before anything runs."""

import re
from pathlib import Path

import pytest
from mypy import api

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ACCEPTED, REFUSED = HERE / "accepted.py", HERE / "refused.py"
MARK = re.compile(r"\s*# type: ignore\[[a-z-]+\]")

OUTCOMES = "Done | Skipped | Wait | Retry | Rejected"
LOOK = f"Callable[[EntityChanged, Context[Ours]], Coroutine[Any, Any, {OUTCOMES}]]"


def unfit(given: str, wanted: str, argument: str = "Argument 1") -> str:
    return f'error: {argument} has incompatible type "{given}"; expected "{wanted}"  [arg-type]'


MIXED = unfit("list[object]", "Sequence[Trigger[Never, Never]]", 'Argument "triggers" to "step"')
EXPECTED = {
    "    await ctx.enqueue(REQUESTS, event)": [
        'error: Cannot infer value of type parameter "E" of "enqueue" of "Context"  [misc]'
    ],
    "    emit = Emit(REQUESTS, event)": [
        'error: Cannot infer value of type parameter "E" of "Emit"  [misc]'
    ],
    ")(look)": [unfit(LOOK, f"Callable[[Tick, Context[Ours]], Awaitable[{OUTCOMES}]]")],
    ")(look) again": [
        unfit(LOOK, f"Callable[[RunRequested, Context[Ours]], Awaitable[{OUTCOMES}]]")
    ],
    '@step(name="3"': [
        unfit(
            "Callable[[ApiRequest[bytes], Context[Ours]], Coroutine[Any, Any, ApiResponse]]",
            "Callable[[Never, Context[Ours]], Awaitable[Never]]",
        ),
        MIXED,
    ],
    '@step(name="4"': [unfit(LOOK, "Callable[[Never, Context[Ours]], Awaitable[Never]]"), MIXED],
    '@step(name="5"': [
        unfit(
            "Callable[[EntityChanged, Context[Ours]], Coroutine[Any, Any, None]]",
            f"Callable[[EntityChanged, Context[Ours]], Awaitable[{OUTCOMES}]]",
        )
    ],
    '@step(name="6"': [
        unfit(
            f"Callable[[EntityChanged, Context[Ours]], {OUTCOMES}]",
            f"Callable[[EntityChanged, Context[Ours]], Awaitable[{OUTCOMES}]]",
        )
    ],
    '@step(name="7"': [
        unfit(
            "Callable[[ApiRequest[EntityChanged], Context[Ours]], Coroutine[Any, Any, ApiResponse]]",
            "Callable[[ApiRequest[RunRequested], Context[Ours]], Awaitable[ApiResponse]]",
        )
    ],
    "an_app_that_opens_another_service_s_deps": [
        unfit(
            "Callable[[Mapping[str, str]], _AsyncGeneratorContextManager[Theirs, None]]",
            "Callable[[Mapping[str, str]], AbstractAsyncContextManager[Ours, bool | None]]",
            'Argument 3 to "App"',
        )
    ],
}
"""How the refused lines begin, in the order of the file, and all that mypy says of each."""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What mypy says of both files once the marks of the refused lines are gone."""
    shadow = tmp_path_factory.mktemp("typing") / "refused.py"
    shadow.write_text(MARK.sub("", REFUSED.read_text("utf-8")), "utf-8")
    out, errors, _ = api.run(
        [
            f"--config-file={ROOT / 'pyproject.toml'}",
            # beside the everyday cache, so that neither disturbs the other
            f"--cache-dir={ROOT / '.mypy_cache' / 'typing'}",
            "--no-error-summary",
            "--no-pretty",
            "--hide-error-context",
            "--no-color-output",
            "--show-absolute-path",
            "--shadow-file",
            str(REFUSED),
            str(shadow),
            str(REFUSED),
            str(ACCEPTED),
        ]
    )
    assert errors == ""
    return out.splitlines()


def test_mypy_refuses_each_wrong_declaration_at_its_line_and_says_why(said: list[str]) -> None:
    lines = REFUSED.read_text("utf-8").splitlines()
    marked = [(number, text) for number, text in enumerate(lines, 1) if MARK.search(text)]
    assert len(marked) == len(EXPECTED)

    wanted = []
    for (number, text), (begin, messages) in zip(marked, EXPECTED.items(), strict=True):
        assert text.startswith(begin.removesuffix(" again"))
        wanted += [f"{REFUSED}:{number}: {message}" for message in messages]
    assert [line for line in said if line.startswith(str(REFUSED))] == wanted


def test_mypy_has_nothing_to_say_of_declarations_as_they_are_meant(said: list[str]) -> None:
    assert [line for line in said if not line.startswith(str(REFUSED))] == []
