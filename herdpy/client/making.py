"""``herd spawn transient``, ``herd schedule timer``: the options that name files are meant where the client is."""

import os

PATHS = ("--directory", "--working-directory", "--log-file")


def absolute(arguments: "list[str]", directory: str) -> "list[str]":
    """Return the arguments, up to ``--``, with the paths in options absolute: the server is elsewhere."""
    done: list[str] = []
    words = list(arguments)
    while words and words[0] != "--":
        word = words.pop(0)
        option, equals, value = word.partition("=")
        if option in PATHS and equals:
            word = f"{option}={os.path.join(directory, value)}"
        elif word.startswith("-d") and not word.startswith("--") and word != "-d":
            word = f"-d{os.path.join(directory, word[2:])}"
        elif (word == "-d" or word in PATHS) and words and words[0] != "--":
            done.append(word)
            word = os.path.join(directory, words.pop(0))
        done.append(word)
    return done + words
