"""The native core's part of the build: one shared object for each tier of instructions. The rest
stands in pyproject.toml; docs/decisions/0015-the-native-core.md has the reasons.
"""

import sys
from copy import copy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, "native")
from tiers import SOURCES, tiers


class BuildCore(build_ext):
    """Compiles what compiles; without a compiler the package is installed without its core."""

    def finalize_options(self) -> None:
        """Compile the tiers side by side."""
        super().finalize_options()
        self.parallel = self.parallel or True

    def build_extension(self, ext: Extension) -> None:
        """Compile in a folder of the tier's own: all have the same sources."""
        own = copy(self)
        own.build_temp = str(Path(self.build_temp) / ext.name)
        build_ext.build_extension(own, ext)

    def get_ext_filename(self, fullname: str) -> str:
        """The file's plain name: the object knows nothing of Python and serves every version."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))


setup(
    cmdclass={"build_ext": BuildCore},
    ext_modules=[
        Extension(
            f"puna.native.puna_{tier}",
            [f"native/{name}" for name in SOURCES],
            depends=sorted(str(header) for header in Path("native").glob("*.h")),
            extra_compile_args=flags,
            language="c++",
            optional=True,
        )
        for tier, flags in tiers().items()
    ],
)
