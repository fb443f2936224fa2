"""The zoo is tested when it is named (`make test-zoo`): it needs the libraries of .venv-zoo."""

from __future__ import annotations

from pathlib import Path

import pytest

ZOO = Path(__file__).parent


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    asked = (Path(str(argument).split("::")[0]).resolve() for argument in config.args)
    return None if any(ZOO in (path, *path.parents) for path in asked) else True


class Rows:
    """Gathers the rows of the tests that passed, also from xdist's processes."""

    def __init__(self) -> None:
        self.found: list[dict[str, object]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.found += [value for name, value in report.user_properties if name == "row"]

    def pytest_sessionfinish(self) -> None:
        if not self.found:
            return
        from table import write_table
        from zoo_models import ARCHITECTURES

        order = [(a.library, a.name) for a in ARCHITECTURES]
        if len(self.found) == len(order):  # all of them, and all have passed
            write_table(
                sorted(self.found, key=lambda r: order.index((r["library"], r["architecture"])))
            )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # xdist's processes have it
        config.pluginmanager.register(Rows(), "zoo-rows")
