"""One object with obstore, as it comes or unsigned.

Arguments: file, endpoint, bucket, key, bytes of a part, parts at once; then `unsigned` for what
presigned URLs do: without the SHA-256 that it signs. Credentials are in the environment.
"""

import os
import sys
from pathlib import Path

import obstore
from obstore.store import S3Store

if __name__ == "__main__":
    path, endpoint, bucket, key, part_size, at_once, *more = sys.argv[1:]
    store = S3Store(
        bucket,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        unsigned_payload=more == ["unsigned"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    obstore.put(
        store,
        key,
        Path(path),
        use_multipart=True,
        chunk_size=int(part_size),
        max_concurrency=int(at_once),
    )
