"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake in a config, a flag or an input file.

    Its message is one line that names the culprit, its value and the remedy; `launch.py` prints it
    to stderr and exits with code 2. Everything else that is raised is a bug and keeps its
    traceback.
    """

    @property
    def culprit(self) -> str:
        """The message up to its remedy, which is another one where the file is part of a whole."""
        return str(self).partition("; ")[0]
