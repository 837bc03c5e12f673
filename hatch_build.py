"""Compiles relay/compiled/*.pyx when the relay is installed. Where that fails the relay is installed without: it is
slower then and otherwise the same.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("relay", "compiled")


class CompileHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Into the folder of the sources: an editable install finds them there, and a wheel takes them from there."""
        root = Path(self.root)
        for stale in (root / FOLDER).glob("*.so"):
            stale.unlink()
        if os.environ.get("RELAY_COMPILED") == "0":
            return
        try:
            compile_all(root)
        except (Exception, SystemExit) as error:  # noqa: BLE001  no compiler, no headers: some end the process
            self.app.display_warning(f"relay is installed without its compiled parts ({type(error).__name__}: {error})")
            return
        build_data["artifacts"].append(f"{FOLDER.as_posix()}/*.so")
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def compile_all(root: Path) -> None:
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    with tempfile.TemporaryDirectory() as made:
        extensions = [
            Extension(f"relay.compiled.{file.stem}", [str(file.relative_to(root))], extra_compile_args=["-O2"])
            for file in sorted((root / FOLDER).glob("*.pyx"))
        ]
        distribution = Distribution({"name": "relay", "ext_modules": cythonize(extensions, build_dir=made, quiet=True)})
        command = build_ext(distribution)
        command.build_lib, command.build_temp = str(root), made
        command.ensure_finalized()
        command.run()
