"""One object with boto3, as it comes or unsigned.

Arguments: file, endpoint, bucket, key, bytes of a part, parts at once; then `unsigned` for what
presigned URLs do: without CRC32, and without the SHA-256 that it signs over plain http.
Credentials are in the environment.
"""

import sys

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

if __name__ == "__main__":
    path, endpoint, bucket, key, part_size, at_once, *more = sys.argv[1:]
    how = {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "s3": {"addressing_style": "path", "payload_signing_enabled": False},
    }
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        config=Config(**(how if more == ["unsigned"] else {"s3": {"addressing_style": "path"}})),
    )
    transfer = TransferConfig(
        multipart_threshold=1,
        multipart_chunksize=int(part_size),
        max_concurrency=int(at_once),
        preferred_transfer_client="classic",
    )
    s3.upload_file(path, bucket, key, Config=transfer)
