"""What can go wrong, by what the caller should do next: mend the request, look at the work, or start again."""


class EmbedcubeError(Exception):
    """Any failure that embedcube explains in words; the exit code says what kind it is."""

    exit_code = 1


class RequestError(EmbedcubeError):
    """The request was wrong (a YAML key, a path, a limit): nothing was started; mend it and ask again."""

    exit_code = 2


class WorkError(EmbedcubeError):
    """The work was done or tried and did not succeed: the message names what to look at."""

    exit_code = 1


class StartAgain(EmbedcubeError):
    """Something passing stopped the work (a signal, a dead process, an I/O error): start the same command again."""

    exit_code = 75


class CorruptInput(Exception):
    """An input is wrong in its bytes: it is quarantined with this reason and the campaign goes on."""
