"""The status page as an operator meets it, in a real browser, over a real daemon."""

import os
import time
import unittest

from stage import TOKEN, Stage
from webdriver import Browser

HOSTILE = '<img src=x onerror="document.title=1">.txt'
LARGE = b'one line\n' * 200  # more than the inbox takes at first
FAILURE = '#failures > div'


class Page(unittest.TestCase):
    """One stage and one browser for all; each test opens the page anew and begins without a token."""

    @classmethod
    def setUpClass(cls):
        cls.stage = Stage()
        cls.addClassCleanup(cls.stage.close)
        cls.stage.start()
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)

    def setUp(self):
        self.browser.screen(1280, 900)
        self.browser.open(f'http://{self.stage.address}/')
        self.browser.run('sessionStorage.clear()')
        self.browser.open(f'http://{self.stage.address}/')
        self.browser.wait('the content', lambda: self.browser.run('return !document.getElementById("lists").hidden'))

    def tearDown(self):
        # Also a breach of the page's policy is said there.
        self.assertEqual(self.browser.complaints(), [])

    def shows(self, css, text):
        self.browser.wait(f'{text!r} in {css}', lambda: text in self.browser.text(css))

    def failing(self, *names):
        """Drops files that the inbox refuses, and waits until the page says so."""
        for name in names:
            self.stage.drop('inbox', name, LARGE)
        for name in names:
            self.shows(FAILURE, name)

    def unlock(self, token=TOKEN):
        self.browser.type('#token', token)
        self.browser.press('Enter')

    def focused(self):
        """What the focused element says of itself."""
        return self.browser.run('const e = document.activeElement; return e.getAttribute("aria-label") || e.id || e.tagName')

    def test_one_glance_shows_health_watches_pipelines_and_progress(self):
        self.stage.drop('away', 'waits.txt', b'text')
        self.stage.drop('slow', 'video.mp4', os.urandom(3_000_000))
        self.shows('#health', 'needs a look')
        self.shows('#reasons', 'pipeline away: cannot connect')
        self.shows('#pipelines', 'down')
        rows = self.browser.text('#watches').splitlines()
        self.assertEqual([name for name in ('inbox', 'slow', 'away') if name in rows], ['inbox', 'slow', 'away'])
        self.shows('#transfers', 'slow/video.mp4')
        part = 'const bar = document.querySelector("#transfers progress"); return bar && bar.value / bar.max'
        self.browser.wait('progress', lambda: 0 < (self.browser.run(part) or 0) < 1)
        self.stage.command('pause', 'watch:away')
        self.shows('#watches', 'paused since')
        self.stage.command('resume')
        # The samples are 10 s apart.
        self.browser.wait('the drawn hour', lambda: self.browser.elements('#waiting .line'))
        self.shows('#waiting-caption', 'Files waiting: 2 now')

    def test_a_failing_file_is_shown_with_its_reason_and_delivered_by_retry_once_its_cause_is_gone(self):
        self.failing('too-large.txt')
        self.shows(FAILURE, 'the file has 1800 bytes, more than the 1024 that this folder takes (max_size)')
        self.shows(FAILURE, 'Split the file, or ask the operator of this folder to raise max_size.')
        self.assertEqual(self.browser.text(f'{FAILURE} button'), '', 'no button without the right to press it')
        self.shows('#failures-note', 'Unlock with the token')
        self.unlock()
        self.shows(f'{FAILURE} button', 'Retry')
        # The operator raises max_size and starts the daemon anew, with the page open.
        self.stage.stop()
        self.shows('#health', 'no answer')
        self.shows('#stale', 'The daemon does not answer since')
        self.stage.configure(max_size='1MiB')
        self.stage.start()
        self.shows('#pipelines', 'up')
        self.browser.wait('an answer', lambda: 'no answer' not in self.browser.text('#health'))
        self.assertFalse(self.stage.result('inbox', 'too-large.txt'), 'it stays given up until somebody asks')
        self.browser.click('[aria-label="Retry inbox/too-large.txt"]')
        self.browser.wait('the result', lambda: self.stage.result('inbox', 'too-large.txt'))
        self.browser.wait('its leave', lambda: 'too-large.txt' not in self.browser.text(FAILURE))
        self.shows('#said', 'inbox/too-large.txt is sent again')

        self.stage.stop()
        self.stage.configure(max_size='1KiB')
        self.stage.start()

    def test_a_name_that_is_markup_stays_text(self):
        self.failing(HOSTILE)
        self.assertIn(f'inbox/{HOSTILE}', self.browser.text(f'{FAILURE} .name').splitlines())
        self.assertEqual(self.browser.elements('img'), [])
        self.assertIn('rocketride-ingest', self.browser.run('return document.title'))

    def test_a_wrong_token_is_refused_and_said_so(self):
        self.failing('token.txt')
        self.unlock('guess')
        self.shows('#token-said', 'That is not the token.')
        self.assertEqual(self.browser.text(f'{FAILURE} button'), '')
        self.assertIsNone(self.browser.run('return sessionStorage.getItem("rocketride-ingest-token")'))
        # What lies in the tab from an earlier life is dropped, and the page goes on without it.
        self.browser.run('sessionStorage.setItem("rocketride-ingest-token", "replaced")')
        dropped = 'return sessionStorage.getItem("rocketride-ingest-token") === null'
        self.browser.wait('the old token to go', lambda: self.browser.run(dropped))
        self.shows(FAILURE, 'token.txt')

    def test_a_phone_shows_it_without_scrolling_sideways(self):
        self.failing('a-long-name-' + 'without-any-space' * 10 + '.txt', 'a long name ' + 'with spaces ' * 12 + '.txt')
        self.unlock()
        self.shows(f'{FAILURE} button', 'Retry')
        for dark in (False, True):
            self.browser.screen(390, 844, dark=dark, phone=True)
            widths = 'return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]'
            self.browser.wait('the narrow page', lambda: self.browser.run(widths)[2] == 390)
            self.assertEqual(self.browser.run(widths), [390, 390, 390])

    def test_the_keyboard_alone_suffices_and_keeps_its_place(self):
        self.failing('k1.txt', 'k2.txt')
        self.browser.press('Tab')
        self.assertEqual(self.focused(), 'token', 'the first thing to reach')
        for letter in TOKEN:
            self.browser.press(letter)
        self.browser.press('Enter')
        self.browser.wait('the failures', lambda: self.focused() == 'failures-title')
        self.browser.press('Tab')
        label = self.focused()
        self.assertTrue(label.startswith('Retry inbox/'), label)
        ring = 'return getComputedStyle(document.activeElement).outlineStyle'
        self.assertEqual(self.browser.run(ring), 'solid', 'the focus is visible')
        # Newer failures come in above: neither focus nor scrolling nor a selection is taken away.
        self.browser.run('scrollTo(0, 200); getSelection().selectAllChildren(document.querySelector("#failures .note"))')
        before = self.browser.run('return [scrollY, String(getSelection())]')
        self.failing('k3.txt')
        rounds = self.browser.run('return round')
        self.browser.wait('two refreshes', lambda: self.browser.run('return round') >= rounds + 2)
        self.assertEqual(self.focused(), label)
        self.assertEqual(self.browser.run('return [scrollY, String(getSelection())]'), before)
        # Its cause is still there, so it comes back, and is found again.
        self.browser.press('Enter')
        self.shows('#said', 'is sent again')
        self.shows(FAILURE, label.removeprefix('Retry '))
        self.assertIn('Retry inbox/', self.focused(), 'the keyboard goes on in the list')

    def test_it_asks_once_in_two_seconds_whatever_was_clicked(self):
        # A refresh on top of another must not begin a second series of them.
        self.browser.run('for (let n = 0; n < 10; n += 1) refresh()')
        time.sleep(1)
        before = self.browser.run('return round')
        time.sleep(6)
        self.assertLessEqual(self.browser.run('return round') - before, 4)


if __name__ == '__main__':
    unittest.main()
