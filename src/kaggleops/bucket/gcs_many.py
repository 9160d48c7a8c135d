"""Many small objects of Cloud Storage at once, by gcsfs.

One thread waits for all the requests, which takes the processor a quarter of the time that
google-cloud-storage needs for as many (docs/benchmarks.md). What goes wrong is not explained here:
such an object is left to whoever reads them one by one.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from kaggleops.bucket.gcs_client import settle_gcsfs

_AT_ONCE = 32
_TIMEOUT = 60.0  # seconds of one request


def read_objects(
    client: Any, objects: Sequence[tuple[str, int]], take: Callable[[str, bytes], None]
) -> None:
    """Hand out the contents of objects as they come, unverified.

    One that is gone is left out; after any other fault that stays, all that have not come are.

    Args:
        client: a `google.cloud.storage.Client`, for its credentials and its address.
        objects: their names, each with its bucket before it, and their generations (which gcsfs
            of 2025, as Colab has it, passes over: then what is there now may come).
        take: called with a name and the content; what it raises ends this.
    """
    settle_gcsfs()
    from fsspec.asyn import sync
    from gcsfs import GCSFileSystem
    from google.auth.credentials import AnonymousCredentials

    login = client._credentials
    waiting = deque(objects)
    try:
        files = GCSFileSystem(
            token="anon" if isinstance(login, AnonymousCredentials) else login,
            endpoint_url=client.api_endpoint,
            requests_timeout=_TIMEOUT,
            skip_instance_cache=True,
        )
        sync(files.loop, _read_all, files, waiting, take)
    finally:
        waiting.clear()  # who is interrupted leaves nobody at work


async def _read_all(
    files: Any, waiting: deque[tuple[str, int]], take: Callable[[str, bytes], None]
) -> None:
    async def read() -> None:
        while waiting:
            name, generation = waiting.popleft()
            try:
                content = await files._cat_file(name, generation=generation)
            except FileNotFoundError:
                continue
            except Exception:  # noqa: BLE001 - whatever it is, they are read again one by one
                waiting.clear()
            else:
                take(name, content)

    readers = [asyncio.create_task(read()) for _ in range(_AT_ONCE)]
    await asyncio.wait(readers, return_when=asyncio.FIRST_EXCEPTION)
    waiting.clear()
    await asyncio.wait(readers)
    for failure in [reader.exception() for reader in readers]:
        if failure is not None:
            raise failure
