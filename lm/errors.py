"""Defines the exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake in a config, a flag or an input file.

    Its message is one line that names the culprit, its value and the remedy; `launch.py` prints it
    to stderr and exits with code 2. Everything else that is raised is a bug and keeps its
    traceback.
    """

    @property
    def culprit(self) -> str:
        """Returns the message without its remedy, for a caller that knows a better one."""
        return str(self).partition("; ")[0]
