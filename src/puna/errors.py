"""The exceptions that users meet. Each message says the value that was given, the rule it breaks
and the remedy.

    PunaError                everything that a user can mend
    ├── ConfigError          a recipe, an override or a preset breaks a rule
    ├── TokenizerError       a vocabulary cannot be trained, read or used as asked
    ├── DataError            a source, a shard or a mixture is missing, damaged or too small
    ├── ModelFolderError     a model folder cannot be read or written
    ├── TrainingError        a run cannot start, go on or resume
    ├── NativeError          the native core is not there, or not as asked
    ├── RequestError         a prompt or a sampling option cannot be served
    └── PlanError            a budget, a size or a file of runs has no plan

Errors in Puna itself are `assert` failures or Python's own exceptions, and print a traceback.
"""


class PunaError(Exception):
    """Base of every error that the user can mend; the command line prints its message and exits
    with 1.
    """


class ConfigError(PunaError):
    """A recipe, an override or a preset breaks a rule."""


class TokenizerError(PunaError):
    """A vocabulary cannot be trained, read or used as asked."""


class DataError(PunaError):
    """A source, a shard or a mixture is missing, damaged or too small."""


class ModelFolderError(PunaError):
    """A model folder cannot be read or written."""


class TrainingError(PunaError):
    """A training run cannot start, go on or resume."""


class NativeError(PunaError):
    """The native core is not there, or has no code for what was asked."""


class RequestError(PunaError):
    """A prompt or a sampling option cannot be served."""


class PlanError(PunaError):
    """A budget, a size or a file of runs has no plan."""
