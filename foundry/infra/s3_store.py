"""Objects in S3, or in anything that speaks its API with conditional writes."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

from foundry.config import ObjectSettings
from foundry.errors import Conflict, NotFound, SetupError, Unavailable
from foundry.infra.directory_store import storage_error
from foundry.infra.objects import StoredObject

_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_EXISTS = frozenset({"412", "PreconditionFailed", "ConditionalRequestConflict", "409"})
# One PUT holds up to 5 GiB; larger objects go up in parts.
_PART_BYTES = 256 * 2**20
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 60


class S3Store:
    """An `ObjectStore` in one bucket; writes carry `If-None-Match: *`, so a key never changes."""

    def __init__(self, bucket: str, prefix: str, settings: ObjectSettings) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._settings = settings

    @classmethod
    def from_settings(cls, settings: ObjectSettings) -> Self:
        parts = urlsplit(settings.url or "")
        if parts.scheme != "s3" or not parts.netloc:
            raise SetupError("FOUNDRY_OBJECTS__URL must look like s3://bucket/prefix")
        return cls(parts.netloc, parts.path, settings)

    async def put_file(self, key: str, source: Path) -> None:
        await self._call(key, self._put_file, source)

    async def put_bytes(self, key: str, data: bytes) -> None:
        await self._call(key, self._put_body, data)

    async def get_file(self, key: str, target: Path) -> None:
        await self._call(key, self._get_file, target)

    async def get_bytes(self, key: str) -> bytes:
        data: bytes = await self._call(key, self._get_bytes)
        return data

    async def exists(self, key: str) -> bool:
        try:
            await self._call(key, self._head)
        except NotFound:
            return False
        return True

    async def delete(self, key: str) -> None:
        await self._call(key, self._delete)

    async def list_pages(self, prefix: str) -> AsyncIterator[Sequence[StoredObject]]:
        token: str | None = None
        while True:
            answer = await self._call(prefix, self._list_page, token)
            yield [
                StoredObject(each["Key"][len(self._prefix) :], each["LastModified"].timestamp())
                for each in answer.get("Contents", ())
            ]
            if (token := answer.get("NextContinuationToken")) is None:
                return

    async def remove_unfinished(self, older_than_s: float) -> int:
        before = time.time() - older_than_s
        removed: int = await self._call("", self._abort_uploads, before)
        return removed

    @cached_property
    def _client(self) -> Any:
        # Imported here: botocore takes 0.3 s that a directory store should not cost.
        import boto3
        from botocore.config import Config

        secret = self._settings.secret_access_key
        access = self._settings.access_key_id
        return boto3.client(
            "s3",
            endpoint_url=self._settings.endpoint_url,
            region_name=self._settings.region,
            aws_access_key_id=access.get_secret_value() if access else None,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            config=Config(
                connect_timeout=_CONNECT_TIMEOUT_S,
                read_timeout=_READ_TIMEOUT_S,
                retries={"mode": "standard", "max_attempts": 4},
                s3={"addressing_style": "path" if self._settings.endpoint_url else "auto"},
            ),
        )

    async def _call(self, key: str, operation: Any, *arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return await asyncio.to_thread(operation, self._prefix + key, *arguments)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _MISSING:
                raise NotFound(f"object {key} does not exist") from error
            if code in _EXISTS:
                raise Conflict(f"object {key} exists already") from error
            raise Unavailable(f"the object store refused {key}: {code}") from error
        except BotoCoreError as error:
            raise Unavailable(
                f"the object store cannot be reached ({type(error).__name__}): "
                "check FOUNDRY_OBJECTS__URL and FOUNDRY_OBJECTS__ENDPOINT_URL"
            ) from error

    def _put_body(self, key: str, body: Any) -> None:
        self._client.put_object(Bucket=self._bucket, Key=key, Body=body, IfNoneMatch="*")

    def _put_file(self, key: str, source: Path) -> None:
        if source.stat().st_size > _PART_BYTES:
            self._put_parts(key, source)
            return
        with source.open("rb") as body:
            self._put_body(key, body)

    def _put_parts(self, key: str, source: Path) -> None:
        target = {"Bucket": self._bucket, "Key": key}
        upload = self._client.create_multipart_upload(**target)["UploadId"]
        parts: list[dict[str, object]] = []
        try:
            with source.open("rb") as body:
                while chunk := body.read(_PART_BYTES):
                    number = len(parts) + 1
                    answer = self._client.upload_part(
                        **target, UploadId=upload, PartNumber=number, Body=chunk
                    )
                    parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            self._client.complete_multipart_upload(
                **target, UploadId=upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
            )
        except BaseException:
            # Parts of an unfinished upload are invisible and billed for ever.
            self._client.abort_multipart_upload(**target, UploadId=upload)
            raise

    def _get_file(self, key: str, target: Path) -> None:
        partial = target.with_name(f".{target.name}.{uuid4().hex}.partial")
        body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("xb") as writer:
                for chunk in body.iter_chunks(1 << 20):
                    writer.write(chunk)
            partial.replace(target)
        except OSError as error:
            raise storage_error(error, target.parent) from error
        finally:
            body.close()
            partial.unlink(missing_ok=True)

    def _get_bytes(self, key: str) -> bytes:
        data: bytes = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        return data

    def _head(self, key: str) -> None:
        self._client.head_object(Bucket=self._bucket, Key=key)

    def _delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=key)

    def _list_page(self, prefix: str, token: str | None) -> Any:
        where = {"Bucket": self._bucket, "Prefix": prefix}
        return self._client.list_objects_v2(
            **where, **({"ContinuationToken": token} if token is not None else {})
        )

    def _abort_uploads(self, prefix: str, before: float) -> int:
        """Parts of an upload that nobody completes are invisible and billed for ever."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        stale = [
            upload
            for page in pages
            for upload in page.get("Uploads", ())
            if upload["Initiated"].timestamp() < before
        ]
        for upload in stale:
            self._client.abort_multipart_upload(
                Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
            )
        return len(stale)
