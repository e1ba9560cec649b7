"""The image and examples/compose: what they name exists, and each panel is of a metric there is."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from bnlstm_deploy.cli.main import app
from bnlstm_deploy.serve.metrics import exposition
from bnlstm_deploy.serve.stats import BOUNDS, Histogram, ServerStats

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "examples" / "compose"
NOTHING = Histogram((0,) * (len(BOUNDS) + 1), 0.0)
METRIC = re.compile(r"\b(?:bnlstm|process)_\w+")


@pytest.fixture(scope="module")
def names():
    """Return the names of all time series that a server exposes."""
    text, _ = exposition(ServerStats((), 0, 0, 0, NOTHING), "", process=True)
    found = set()
    for family in text_string_to_metric_families(text.decode()):
        kinds = {
            "histogram": ("_bucket", "_sum", "_count"),
            "counter": ("_total",),
        }.get(family.type, ("",))
        found |= {family.name + kind for kind in kinds}
    return found


def test_each_panel_is_of_metrics_that_a_server_has(names):
    dashboard = json.loads((COMPOSE / "grafana" / "bnlstm.json").read_text())
    expressions = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    used = {name for expression in expressions for name in METRIC.findall(expression)}
    assert used <= names
    shown = {name for name in names if name.startswith("bnlstm_")}
    missed = {re.sub("_(bucket|sum|count)$", "", n) for n in shown - used}
    assert missed <= {re.sub("_(bucket|sum|count)$", "", n) for n in used}, "no panel shows these"


def test_panels_do_not_overlap():
    panels = json.loads((COMPOSE / "grafana" / "bnlstm.json").read_text())["panels"]
    places = [tuple(panel["gridPos"].values()) for panel in panels]
    assert len(set(places)) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)


def test_what_compose_mounts_is_there():
    services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    for service in services.values():
        for volume in service["volumes"]:
            source = COMPOSE / volume.split(":")[0]
            assert source.exists() or source.name == "models"
    scraped = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())["scrape_configs"]
    (target,) = scraped[0]["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert any(published.endswith(f":{port}") for published in services[name]["ports"])
    assert not any(":latest" in service.get("image", "") for service in services.values())


def test_the_images_command_is_one():
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    said = {line.split()[0]: line.partition(" ")[2] for line in lines if line[:1].isupper()}
    assert said["USER"] == "1000"
    arguments = json.loads(said["CMD"])
    assert CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0
    check = json.loads(said["HEALTHCHECK"].partition("CMD ")[2])
    compile(check[2], "health check", "exec")
    assert "/v2/health/ready" in check[2]
    assert "bnlstm-deploy" in shlex.split(said["ENTRYPOINT"])[0]
