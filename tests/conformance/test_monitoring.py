"""Metrics, alert rules and the dashboard as Prometheus itself reads them: its promtool, and its Python client."""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest
from conftest import KEY, Sandbox
from prometheus_client.parser import text_string_to_metric_families

PATIENCE = 60  # seconds; reached only by a defect
ROOT = pathlib.Path(__file__).resolve().parents[2]
MONITORING = ROOT / 'monitoring'
PREFIX = 'rocketride_ingest_'
PIPELINE = {
    'source': 'webhook_1',
    'components': [{'id': 'webhook_1', 'provider': 'webhook', 'config': {}}],
}

# Names and labels that dashboards of others rely on. The type tells how they are read.
METRICS = {
    'jobs': ('gauge', {'watch', 'state'}),
    'files_total': ('counter', {'watch', 'outcome'}),
    'uploaded_bytes_total': ('counter', {'pipeline'}),
    'upload_duration_seconds': ('histogram', set()),
    'detection_delay_seconds': ('histogram', set()),
    'journal_commit_duration_seconds': ('histogram', set()),
    'retries_total': ('counter', {'pipeline', 'kind'}),
    'uploads_in_flight': ('gauge', {'pipeline'}),
    'pipeline_up': ('gauge', {'pipeline'}),
    'last_success_timestamp_seconds': ('gauge', {'pipeline'}),
    'watch_up': ('gauge', {'watch'}),
    'watch_info': ('gauge', {'watch', 'backend', 'writer_check'}),
    'paused': ('gauge', {'kind', 'name'}),
    'oldest_pending_timestamp_seconds': ('gauge', {'watch'}),
    'files_found_by_scan_total': ('counter', {'watch'}),
    'rescans_total': ('counter', {'watch', 'reason'}),
    'throttled_seconds_total': ('counter', {'pipeline', 'limit'}),
    'config_last_reload_successful': ('gauge', set()),
    'state_free_bytes': ('gauge', set()),
    'state_min_free_bytes': ('gauge', set()),
    'journal_bytes': ('gauge', set()),
    'spooled_results': ('gauge', set()),
    'task_panics_total': ('counter', set()),
    'build_info': ('gauge', {'version'}),
}


def promtool(*arguments, text=None):
    """Runs it; it must have nothing to say against what it is given."""
    program = os.environ.get('PROMTOOL') or shutil.which('promtool')
    assert program, 'promtool of Debian\'s package prometheus is needed; run.sh gets it'
    ended = subprocess.run([program, *arguments], input=text, capture_output=True, text=True, timeout=PATIENCE)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    return said


def free_port():
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        return taken.getsockname()[1]


def wait_for(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f'waited {PATIENCE} s for {what}'
        time.sleep(0.05)


@pytest.fixture(scope='module')
def metrics(tmp_path_factory):
    """What is scraped of a daemon that has delivered a file, given one up, and lost its server in the midst of another."""
    folder = tmp_path_factory.mktemp('monitored')
    sandbox = Sandbox()
    address = f'127.0.0.1:{free_port()}'
    (folder / 'key').write_text(KEY)
    (folder / 'key').chmod(0o600)
    (folder / 'p.pipe').write_text(json.dumps({'project_id': 'monitored', **PIPELINE}))
    inbox = folder / 'inbox'
    inbox.mkdir()
    (folder / 'config.toml').write_text(
        f"""
        [server]
        uri = "{sandbox.uri}"
        api_key_file = "key"
        chunk_size = "4KiB"
        [state]
        directory = "{folder / 'state'}"
        min_free = "1MiB"
        [admin]
        socket = "{folder / 'admin.sock'}"
        listen = "{address}"
        [pipelines.p]
        file = "p.pipe"
        [pipelines.p.limits]
        bytes_per_second = "16KiB"
        [[watch]]
        path = "{inbox}"
        pipeline = "p"
        settle = "100ms"
        max_size = "1MiB"
        """
    )
    command = [os.environ['ROCKETRIDE_INGEST_BIN'], '--config', str(folder / 'config.toml'), 'run']
    environment = {'PATH': os.environ['PATH'], 'HOME': os.environ.get('HOME', '/')}
    daemon = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def scrape():
        try:
            with urllib.request.urlopen(f'http://{address}/metrics', timeout=PATIENCE) as answer:
                return answer.read().decode()
        except OSError:
            assert daemon.poll() is None, 'the daemon ended'
            return ''

    try:
        (inbox / 'small.txt').write_text('text')
        (inbox / 'too-large.txt').write_text('x' * 1_100_000)
        wait_for('the delivered file', lambda: 'outcome="delivered",watch="inbox"} 1' in scrape())
        wait_for('the dead letter', lambda: 'jobs{state="failed",watch="inbox"} 1' in scrape())
        (inbox / 'slow.bin').write_bytes(os.urandom(1_000_000))
        wait_for('the slow upload', lambda: f'{PREFIX}uploads_in_flight{{pipeline="p"}} 1' in scrape())
        sandbox.stop()
        wait_for('its repetition', lambda: f'{PREFIX}retries_total{{' in scrape())
        wait_for('its wait', lambda: f'{PREFIX}oldest_pending_timestamp_seconds{{' in scrape())
        yield scrape()
    finally:
        daemon.kill()
        daemon.wait()
        sandbox.stop()


def expressions():
    """Every expression of the dashboard, with its panel."""
    dashboard = json.loads((MONITORING / 'dashboard.json').read_text())
    for panel in dashboard['panels']:
        for target in panel.get('targets', []):
            yield panel['title'], target['expr']


def test_promtool_has_nothing_against_the_metrics(metrics):
    assert promtool('check', 'metrics', text=metrics).strip() == ''


def test_the_python_client_reads_every_metric_with_its_type_and_labels(metrics):
    families = {family.name: family for family in text_string_to_metric_families(metrics)}
    found = {name.removeprefix(PREFIX) for name in families if name.startswith(PREFIX)}
    # The client takes the ending of a counter off the name of its family.
    expected = {name.removesuffix('_total') if kind == 'counter' else name for name, (kind, _) in METRICS.items()}
    assert expected <= found
    for name, (kind, labels) in METRICS.items():
        family = families[PREFIX + (name.removesuffix('_total') if kind == 'counter' else name)]
        assert family.type == kind, name
        assert family.documentation, name
        assert family.samples, name
        for sample in family.samples:
            assert set(sample.labels) - {'le'} == labels, name
            assert not any('small.txt' in value for value in sample.labels.values()), 'a file is no label'
    assert any(name.startswith('process_') for name in families)


def test_the_alert_rules_are_valid_and_fire_when_they_should():
    assert 'SUCCESS' in promtool('check', 'rules', str(MONITORING / 'alerts.yml'))
    assert 'SUCCESS' in promtool('test', 'rules', str(ROOT / 'tests' / 'conformance' / 'alerts_test.yml'))


def test_the_expressions_of_the_dashboard_are_valid(tmp_path):
    rules = []
    for number, (title, expression) in enumerate(expressions()):
        expression = expression.replace('$__rate_interval', '5m').replace('$job', '.+').replace('$instance', '.+')
        assert '$' not in expression, f'{title}: an unknown variable in {expression}'
        rules.append({'record': f'panel:{number}', 'expr': expression})
    assert len(rules) > 20
    # JSON is YAML.
    (tmp_path / 'panels.yml').write_text(json.dumps({'groups': [{'name': 'panels', 'rules': rules}]}))
    assert 'SUCCESS' in promtool('check', 'rules', str(tmp_path / 'panels.yml'))


def test_everything_that_rules_and_dashboard_name_is_measured(metrics):
    measured = set(re.findall(r'^([a-z_]+)', re.sub(r'(?m)^#.*$', '', metrics), re.MULTILINE))
    text = (MONITORING / 'alerts.yml').read_text() + '\n'.join(expression for _, expression in expressions())
    text += (MONITORING / 'dashboard.json').read_text()
    named = set(re.findall(r'\b((?:rocketride_ingest|process)_[a-z_]+)', text))
    assert len(named) > 20
    assert named - measured == set()
    prose = (MONITORING / 'RUNBOOK.md').read_text()
    for name in re.findall(r'`([a-z_]+_(?:total|seconds|bytes))`', prose):
        assert PREFIX + name in measured, f'{name} of the runbook'


def test_every_panel_has_its_own_place():
    panels = json.loads((MONITORING / 'dashboard.json').read_text())['panels']
    assert len({panel['id'] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel['gridPos']
        for x in range(place['x'], place['x'] + place['w']):
            assert x < 24, panel['title']
            for y in range(place['y'], place['y'] + place['h']):
                assert (x, y) not in taken, panel['title']
                taken.add((x, y))


def test_every_alert_has_its_section_of_the_runbook():
    alerts = re.findall(r'- alert: (\w+)', (MONITORING / 'alerts.yml').read_text())
    links = re.findall(r'runbook: "RUNBOOK\.md#(\w+)"', (MONITORING / 'alerts.yml').read_text())
    runbook = (MONITORING / 'RUNBOOK.md').read_text()
    assert len(alerts) > 8
    assert [alert.lower() for alert in alerts] == links
    sections = re.findall(r'(?m)^## (Rocketride\w+)\n(.*?)(?=^## |\Z)', runbook, re.DOTALL)
    assert [name for name, _ in sections] == alerts
    for name, text in sections:
        for part in ('Means:', 'Look', 'do'):
            assert part.lower() in text.lower(), f'{name} lacks {part}'
