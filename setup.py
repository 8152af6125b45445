"""Builds the C++ kernels; everything else about the package stands in pyproject.toml.

The result is a plain shared library that ``internimage/ops/native`` loads with ctypes: it includes no header of torch
or Python, so one wheel fits every Python and torch. Without a C++ compiler the install succeeds all the same and the
operators run on plain PyTorch; with ``INTERNIMAGE_REQUIRE_KERNEL=1`` it fails instead.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE = "internimage/ops/native"
REQUIRED = os.environ.get("INTERNIMAGE_REQUIRE_KERNEL", "0") not in ("", "0")
# Not -ffast-math: it gains nothing here, and linking with it would flush denormals in the whole process.
GNU_FLAGS = ["-std=c++17", "-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
MSVC_FLAGS = ["/std:c++17", "/O2", "/EHsc"]


class BuildKernels(build_ext):
    """Compiles the kernels into one library named without a Python ABI, or says in one line that it could not."""

    def run(self) -> None:
        use_a_compiler_that_exists()
        if self.inplace:  # a library of older sources must not outlive a failed build
            for extension in self.extensions:
                Path(self.get_ext_filename(extension.name)).unlink(missing_ok=True)
        super().run()

    def build_extension(self, ext: Extension) -> None:
        ext.extra_compile_args = MSVC_FLAGS if self.compiler.compiler_type == "msvc" else GNU_FLAGS
        try:
            super().build_extension(ext)
        except Exception as error:
            if REQUIRED:
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            print(
                f"internimage-torch: installing without the C++ kernels, operators run on plain PyTorch ({reason})",
                file=sys.stderr,
            )

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + (".dll" if sys.platform == "win32" else ".so")

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return ext.export_symbols  # and no PyInit_*, which MSVC would look for in vain

    def get_libraries(self, ext: Extension) -> list[str]:
        return ext.libraries  # and no Python library


class PlatformWheel(bdist_wheel):
    """Tags the wheel py3-none-<platform>: the library depends on the platform, not on the Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def use_a_compiler_that_exists() -> None:
    """Some Pythons remember a compiler of the machine that built them; take another one where that is missing."""
    remembered = shlex.split(sysconfig.get_config_var("CXX") or "")
    if os.name != "posix" or "CXX" in os.environ or (remembered and shutil.which(remembered[0])):
        return
    for cc, cxx in (("cc", "c++"), ("gcc", "g++"), ("clang", "clang++")):
        if shutil.which(cxx):
            os.environ.setdefault("CC", cc)
            os.environ["CXX"] = cxx
            return


setup(
    ext_modules=[
        Extension(
            "internimage.ops.native._kernels",
            sources=sorted(glob(f"{NATIVE}/*.cpp")),
            depends=sorted(glob(f"{NATIVE}/*.h")),
            language="c++",
            optional=not REQUIRED,
        )
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel},
)
