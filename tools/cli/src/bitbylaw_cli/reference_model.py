"""What `bbl schema cli` answers: the verbs as programs may rely on them, and files that hold it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Parameter(BaseModel):
    """An argument, or an option.

    Attributes:
        name: as it is typed, with the word for its value: `--rate FLOAT`.
        required: the verb refuses to run without it.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    meaning: str
    required: bool


class Ending(BaseModel):
    """One way in which a verb ends.

    Attributes:
        when: in words; empty for 0 and 2, which mean the same everywhere.
    """

    model_config = ConfigDict(frozen=True)

    code: int
    when: str = ""


class VerbReference(BaseModel):
    """One verb.

    Attributes:
        verb: as it is typed, without `bbl`.
        does: what `--help` says.
        writes: it has --plan and --yes.
        answers: what --json prints, in one sentence for each kind of answer.
        answer: the JSON schema of what --json prints.
        line: of each line while it follows something; None where it never does.
    """

    model_config = ConfigDict(frozen=True)

    verb: str
    does: str
    parameters: tuple[Parameter, ...]
    writes: bool
    ends: tuple[Ending, ...]
    answers: tuple[str, ...]
    answer: dict[str, Any]
    line: dict[str, Any] | None = None


class Reference(BaseModel):
    """Every verb, in the order of `bbl --help`."""

    model_config = ConfigDict(frozen=True)

    verbs: tuple[VerbReference, ...]


class FileChange(BaseModel):
    """A file that differs from the code."""

    model_config = ConfigDict(frozen=True)

    path: str
    change: Literal["create", "change", "remove"]


class ReferenceFiles(BaseModel):
    """What stands, or stood, between the files of a folder and the code.

    Attributes:
        changes: empty when all are as they should be.
        written: they are now; else this is the plan.
    """

    model_config = ConfigDict(frozen=True)

    folder: str
    changes: tuple[FileChange, ...]
    written: bool
