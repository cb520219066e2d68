"""The errors that a reply may carry, in words."""

from herdpy.client.words import report
from herdpy.sexp import write


def report_error(error: object) -> None:
    """Write an error reply to stderr."""
    report(describe_error(error))


def describe_error(error: object) -> str:
    """Return what the error says, in a line: GNU Shepherd's words, but for a failed action, which it tells in two."""
    match error:
        case ["error", ["version", 0, *_], "service-not-found", service]:
            return f"service '{service}' could not be found"
        case ["error", ["version", 0, *_], "action-not-found", action, service]:
            return f"service '{service}' does not have an action '{action}'"
        case ["error", ["version", 0, *_], "action-exception", action, service, key, *arguments]:
            what = _exception(str(key), arguments[0] if arguments else [])
            return f"'{action}' of service '{service}' failed: {what}"
        case ["error", ["version", 0, *_], *_]:
            return f"something went wrong: {write(error)}"
    return f"the supervisor reports an error that this herd does not know: {write(error)}"


def _exception(key: str, arguments: object) -> str:
    """Return what a key and its arguments say, as Guile's print-exception has it: (SUBR FORMAT (ARGUMENT ...) DATA)."""
    match arguments:
        case [subroutine, str(template), list(values), *_]:
            text = _fill(template, values)
        case [subroutine, str(template), False, *_]:
            text = template
        case _:
            return f"Throw to key `{key}' with args `{write(arguments)}'."
    return f"{subroutine}: {text}" if isinstance(subroutine, str) else text


def _fill(template: str, values: list[object]) -> str:
    """Fill in ``~A`` (as display), ``~S`` (as write), ``~%`` and ``~~``, as simple-format has them."""
    remaining = iter(values)
    first, *parts = template.split("~")
    result = [first]
    is_tilde = False
    for part in parts:
        if is_tilde:
            is_tilde = False
            result.append(part)
            continue
        directive, rest = part[:1].lower(), part[1:]
        if directive in ("a", "s"):
            value = next(remaining, "")
            result.append(value if directive == "a" and isinstance(value, str) else write(value))
            result.append(rest)
        elif directive == "%":
            result.append(f"\n{rest}")
        else:
            # "~~" splits into two parts, the first of them empty
            is_tilde = directive == ""
            result.append("~" if is_tilde else f"~{part}")
    return "".join(result)
