"""One build with `upload_build`, to the service that the environment names.

Arguments: file, name, parts at once; then `verify`, or the seconds after which it is given up.
"""

import asyncio
import json
import sys

from nunu_async import NunuClient


async def main(path: str, name: str, at_once: int, *, verify: bool, seconds: float | None) -> None:
    """Upload, or give it up after so many seconds; print what came of it."""
    parts = verified = None
    async with NunuClient(storage_concurrency=at_once) as nunu:
        try:
            async with asyncio.timeout(seconds):
                built = await nunu.upload_build(
                    path,
                    name=name,
                    platform="linux",
                    multipart=True,
                    concurrency=at_once,
                    verify=verify,
                )
            parts, verified = built.parts, built.verified
        except TimeoutError:
            pass
    print(json.dumps({"parts": parts, "verified": verified}))


if __name__ == "__main__":
    path, name, at_once, *more = sys.argv[1:]
    limit = float(more[0]) if more and more[0] != "verify" else None
    asyncio.run(main(path, name, int(at_once), verify=more == ["verify"], seconds=limit))
