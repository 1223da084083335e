"""Parts with `hf_transfer.multipart_upload`.

Arguments: file, URL to which a part number is added, bytes of a part, parts at once.
"""

import sys
from pathlib import Path

import hf_transfer

if __name__ == "__main__":
    path, url, part_size, at_once = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    count = -(-Path(path).stat().st_size // part_size)
    answers = hf_transfer.multipart_upload(
        file_path=path,
        parts_urls=[f"{url}{number}" for number in range(1, count + 1)],
        chunk_size=part_size,
        max_files=at_once,
    )
    if not all("etag" in answer for answer in answers):
        sys.exit("a part has no ETag")
