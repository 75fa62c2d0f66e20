"""The little of WebDriver that the test needs, over the standard library: a headless chromium of Debian.

https://www.w3.org/TR/webdriver2/ and, for what only chromium can do (a phone's screen, the dark scheme), its own
DevTools commands.
"""

import http.client
import json
import shutil
import subprocess
import tempfile
import time

PATIENCE = 60  # seconds until a wait is a failure; reached only by a defect
START_LIMIT = 60  # seconds until chromedriver must listen and chromium must run
ELEMENT = 'element-6066-11e4-a52e-4f735466cecf'  # the key of an element's reference, fixed by the standard

ARGUMENTS = [
    '--headless',
    '--no-sandbox',  # chromium's own sandbox does not run as root; it is shown nothing but our page
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--no-proxy-server',
    '--window-size=1280,900',
]

KEYS = {'Tab': '\ue004', 'Enter': '\ue007', 'Shift': '\ue008'}


class WebDriverError(Exception):
    """What the browser says it cannot do."""


class Browser:
    """One window of chromium with a profile of its own, until `close`."""

    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix='browser-test-')
        # It chooses a free port and says so in its first lines.
        self.driver = subprocess.Popen(
            ['chromedriver', '--port=0'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.session = None
        try:
            self.port = self._port()
            options = {'args': [*ARGUMENTS, f'--user-data-dir={self.profile}']}
            binary = shutil.which('chromium')
            if binary:
                options['binary'] = binary
            capabilities = {
                'alwaysMatch': {'goog:chromeOptions': options, 'goog:loggingPrefs': {'browser': 'ALL'}},
            }
            self.session = self._call('POST', '/session', {'capabilities': capabilities})['sessionId']
        except BaseException:
            self.close()
            raise

    def _port(self):
        for line in self.driver.stdout:
            if 'started successfully on port' in line:
                return int(line.rsplit(' ', 1)[1].strip().rstrip('.'))
        raise WebDriverError('chromedriver ended before it said where it listens')

    def _call(self, method, path, body=None):
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=START_LIMIT)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {'Content-Type': 'application/json'})
            value = json.loads(connection.getresponse().read())['value']
        finally:
            connection.close()
        if isinstance(value, dict) and 'error' in value:
            raise WebDriverError(f'{value["error"]}: {value["message"]}')
        return value

    def call(self, method, path, body=None):
        """One command of the session."""
        return self._call(method, f'/session/{self.session}{path}', body)

    def devtools(self, command, **parameters):
        """One command of chromium's own."""
        return self.call('POST', '/goog/cdp/execute', {'cmd': command, 'params': parameters})

    def open(self, url):
        """Goes to a page."""
        self.call('POST', '/url', {'url': url})

    def run(self, script, *arguments):
        """Runs the body of a function in the page; returns what it returns."""
        return self.call('POST', '/execute/sync', {'script': script, 'args': list(arguments)})

    def elements(self, css):
        """All elements that match, as references."""
        return self.call('POST', '/elements', {'using': 'css selector', 'value': css})

    def element(self, css):
        """The only element that matches."""
        found = self.elements(css)
        if len(found) != 1:
            raise WebDriverError(f'{len(found)} elements match {css}')
        return found[0]

    def click(self, css):
        """Clicks as a person does: it must be visible and not covered."""
        self.call('POST', f'/element/{self.element(css)[ELEMENT]}/click', {})

    def type(self, css, text):
        """Types into a field."""
        self.call('POST', f'/element/{self.element(css)[ELEMENT]}/value', {'text': text})

    def press(self, key):
        """Presses one key, wherever the focus is."""
        actions = [{'type': kind, 'value': KEYS.get(key, key)} for kind in ('keyDown', 'keyUp')]
        self.call('POST', '/actions', {'actions': [{'type': 'key', 'id': 'keyboard', 'actions': actions}]})

    def text(self, css='body'):
        """The visible text of all that matches."""
        shown = '[...document.querySelectorAll(arguments[0])].filter((e) => e.getClientRects().length)'
        return self.run(f'return {shown}.map((e) => e.innerText ?? e.textContent).join("\\n")', css)

    def wait(self, what, condition):
        """Waits until a condition holds; returns what it was."""
        deadline = time.monotonic() + PATIENCE
        while True:
            held = condition()
            if held:
                return held
            if time.monotonic() > deadline:
                raise AssertionError(f'waited {PATIENCE} s for {what}; the page says:\n{self.text()}')
            time.sleep(0.1)

    def complaints(self):
        """What the console of the page says since the last call, but for requests that were refused or went nowhere."""
        entries = self.call('POST', '/se/log', {'type': 'browser'})
        return [entry['message'] for entry in entries if 'Failed to load resource' not in entry['message']]

    def screen(self, width, height, *, dark=False, phone=False):
        """Gives the page a screen of this size, and the scheme that its reader prefers."""
        self.devtools(
            'Emulation.setDeviceMetricsOverride',
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
        self.devtools('Emulation.setEmulatedMedia', features=[scheme])

    def screenshot(self, whole=True):
        """A picture, as base64 of a PNG."""
        return self.devtools('Page.captureScreenshot', format='png', captureBeyondViewport=whole)['data']

    def close(self):
        """Ends the browser."""
        try:
            if self.session:
                self.call('DELETE', '')
        finally:
            self.driver.terminate()
            try:
                self.driver.wait(10)
            except subprocess.TimeoutExpired:
                self.driver.kill()
                self.driver.wait()
            self.driver.stdout.close()
            shutil.rmtree(self.profile, ignore_errors=True)
