"""A watched folder as one writes it with the SDK and `watchdog`: FOLDER URI KEY PIPELINE [CONCURRENT].

What lies there already comes first, then what is closed after writing or moved in. Each file is sent whole, so many at a
time, and its result is written beside it. Nothing is remembered and nothing made durable. Runs until it is killed.
"""

import asyncio
import json
import mimetypes
import os
import sys

from rocketride import RocketRideClient
from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer

SUFFIX = '.result.json'


def is_input(path):
    return not path.endswith(SUFFIX) and not os.path.exists(path + SUFFIX)


class Handler(FileSystemEventHandler):
    def __init__(self, found):
        self.found = found

    def on_closed(self, event):
        if not event.is_directory and is_input(event.src_path):
            self.found(event.src_path)

    def on_moved(self, event):
        if not event.is_directory and is_input(event.dest_path):
            self.found(event.dest_path)


async def worker(client, token, queue):
    while True:
        path = await queue.get()
        try:
            with open(path, 'rb') as file:
                data = file.read()
            mime = mimetypes.guess_type(path)[0] or 'application/octet-stream'
            result = await client.send(token, data, {'name': os.path.basename(path)}, mime)
            with open(path + SUFFIX, 'w') as file:
                json.dump({'filepath': path, 'file_size': len(data), 'result': result}, file, indent=2)
        except Exception as error:
            print(f'{path}: {error}', file=sys.stderr)


async def main(folder, uri, key, pipeline, concurrent='8'):
    queue = asyncio.Queue()
    loop = asyncio.get_running_loop()
    seen = set()

    def found(path):
        if path not in seen:
            seen.add(path)
            queue.put_nowait(path)

    async with RocketRideClient(uri=uri, auth=key) as client:
        task = await client.use(filepath=pipeline)
        observer = Observer()
        observer.schedule(Handler(lambda path: loop.call_soon_threadsafe(found, path)), folder, recursive=True)
        observer.start()
        for directory, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(directory, name)
                if is_input(path):
                    found(path)
        await asyncio.gather(*(worker(client, task['token'], queue) for _ in range(int(concurrent))))


if __name__ == '__main__':
    asyncio.run(main(*sys.argv[1:]))
