"""SQL of rounds and membership."""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any, cast
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.execution.fleets.domain import EventKind, FleetEvent, MemberShare, RoundRecord
from foundry.execution.fleets.tables import DilocoEvent, DilocoRound


class FleetRows:
    """What the owners of jobs may read: rows of one tenant."""

    def __init__(self, db: AsyncSession, tenant_id: UUID) -> None:
        self._db = db
        self._tenant_id = tenant_id

    async def list_rounds(self, job_id: UUID, after: int, limit: int) -> Sequence[DilocoRound]:
        query = (
            select(DilocoRound)
            .where(
                DilocoRound.tenant_id == self._tenant_id,
                DilocoRound.job_id == job_id,
                DilocoRound.round > after,
            )
            .order_by(DilocoRound.round)
            .limit(limit)
        )
        return (await self._db.execute(query)).scalars().all()

    async def list_events(self, job_id: UUID, after: int, limit: int) -> Sequence[DilocoEvent]:
        query = (
            select(DilocoEvent)
            .where(
                DilocoEvent.tenant_id == self._tenant_id,
                DilocoEvent.job_id == job_id,
                DilocoEvent.seq > after,
            )
            .order_by(DilocoEvent.seq)
            .limit(limit)
        )
        return (await self._db.execute(query)).scalars().all()


class FleetRecords:
    """What a driver reads and writes of its own job."""

    def __init__(self, db: AsyncSession, job_id: UUID) -> None:
        self._db = db
        self._job_id = job_id

    async def find_newest(self) -> RoundRecord | None:
        query = select(DilocoRound).where(DilocoRound.job_id == self._job_id)
        found = await self._db.execute(query.order_by(DilocoRound.round.desc()).limit(1))
        row = found.scalar()
        return None if row is None else _make_record(row)

    async def add_round(self, tenant_id: UUID, record: RoundRecord) -> None:
        self._db.add(_make_row(self._job_id, tenant_id, record))
        await self._db.flush()

    async def list_checkpoints(self) -> list[RoundRecord]:
        kept = DilocoRound.checkpoint.is_not(None)
        query = select(DilocoRound).where(DilocoRound.job_id == self._job_id, kept)
        rows = (await self._db.execute(query.order_by(DilocoRound.round))).scalars().all()
        return [_make_record(row) for row in rows]

    async def forget_checkpoints(self) -> None:
        await self._db.execute(
            update(DilocoRound)
            .where(DilocoRound.job_id == self._job_id, DilocoRound.checkpoint.is_not(None))
            .values(checkpoint=None)
        )

    async def keep_checkpoint(self, number: int, checkpoint: dict[str, Any] | None) -> bool:
        """Note where the state after a round lies; False: there is no such round."""
        changed = await self._db.execute(
            update(DilocoRound)
            .where(DilocoRound.job_id == self._job_id, DilocoRound.round == number)
            .values(checkpoint=checkpoint)
            .returning(DilocoRound.round)
        )
        return changed.scalar() is not None

    async def remove_after(self, number: int) -> int:
        """Remove the rounds above `number`. Returns how many there were."""
        gone = await self._db.execute(
            delete(DilocoRound)
            .where(DilocoRound.job_id == self._job_id, DilocoRound.round > number)
            .returning(DilocoRound.round)
        )
        return len(gone.scalars().all())

    async def append_events(self, tenant_id: UUID, events: Sequence[FleetEvent]) -> None:
        """Append in this order. The job's row is locked, so nobody else numbers events."""
        if not events:
            return
        query = select(func.coalesce(func.max(DilocoEvent.seq), 0))
        last = (
            await self._db.execute(query.where(DilocoEvent.job_id == self._job_id))
        ).scalar_one()
        self._db.add_all(
            DilocoEvent(
                job_id=self._job_id,
                seq=seq,
                tenant_id=tenant_id,
                round=event.round,
                member=event.member,
                kind=event.kind,
                detail=event.detail,
            )
            for seq, event in enumerate(events, last + 1)
        )
        await self._db.flush()

    async def list_events(self) -> tuple[FleetEvent, ...]:
        query = select(DilocoEvent).where(DilocoEvent.job_id == self._job_id)
        rows = (await self._db.execute(query.order_by(DilocoEvent.seq))).scalars().all()
        return tuple(
            FleetEvent(row.round, row.member, cast(EventKind, row.kind), row.detail) for row in rows
        )


async def list_checkpoints(
    db: AsyncSession, job_ids: Collection[UUID]
) -> Sequence[dict[str, object]]:
    """The documents of all checkpoints of these jobs, of whatever tenant."""
    query = select(DilocoRound.checkpoint).where(
        DilocoRound.job_id.in_(job_ids), DilocoRound.checkpoint.is_not(None)
    )
    return [found for found in (await db.execute(query)).scalars() if found is not None]


def _make_row(job_id: UUID, tenant_id: UUID, record: RoundRecord) -> DilocoRound:
    members = [asdict(share) | {"loss": _write_loss(share.loss)} for share in record.members]
    return DilocoRound(
        job_id=job_id,
        round=record.round,
        tenant_id=tenant_id,
        fragment=record.fragment,
        digest=record.digest,
        ledger=record.ledger,
        members=members,
        aborts=record.aborts,
        seconds=record.seconds,
        loss=_write_loss(record.loss),
        eval_loss=None if record.eval_loss is None else _write_loss(record.eval_loss),
        checkpoint=record.checkpoint,
    )


def _make_record(row: DilocoRound) -> RoundRecord:
    members = cast(list[dict[str, Any]], row.members)
    return RoundRecord(
        round=row.round,
        fragment=row.fragment,
        digest=row.digest,
        ledger=row.ledger,
        members=tuple(
            MemberShare(**share | {"loss": _read_loss(share["loss"])}) for share in members
        ),
        aborts=row.aborts,
        seconds=row.seconds,
        loss=_read_loss(row.loss),
        eval_loss=row.eval_loss,
        checkpoint=row.checkpoint,
    )


def _write_loss(value: float) -> float | None:
    # JSON has neither NaN nor infinity.
    return value if math.isfinite(value) else None


def _read_loss(value: float | None) -> float:
    return math.nan if value is None else value
