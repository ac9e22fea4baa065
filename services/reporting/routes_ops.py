"""`/api/v1/ops`: what the platform's staff watch."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from libs.web.auth import OPERATOR, Access, Requires
from libs.web.problems import Forbidden, Unavailable, problem_responses
from services.reporting.topics import KafkaAwayError, TopicFigures, TopicWatch

router = APIRouter(tags=["operations"], responses=problem_responses(Forbidden, Unavailable))


class PartitionLag(BaseModel):
    """A group on one partition; committed_offset is null where it has committed nothing yet."""

    partition: int
    committed_offset: int | None
    end_offset: int


class GroupLag(BaseModel):
    """How far a consumer group is behind on a topic."""

    group: str
    lag_records: int
    partitions_behind: int
    partitions: list[PartitionLag]


class TopicAnswer(BaseModel):
    """A topic with the groups that read it."""

    topic: str
    partitions: int
    records: int = Field(description="Records the log holds; at most that many where compacted.")
    end_offsets: list[int] = Field(description="By partition: the offset of the next record.")
    lag_records: int = Field(description="The sum over its groups.")
    groups: list[GroupLag]


class TopicList(BaseModel):
    """Every topic, by name."""

    as_of: datetime
    lag_records: int
    items: list[TopicAnswer]
    next_cursor: None = None


@router.get("/api/v1/ops/topics")
async def list_topics(
    request: Request, _: Annotated[Access, Depends(Requires(OPERATOR))]
) -> TopicList:
    """Topics, partitions, consumer groups and lag; at most two seconds old."""
    watch: TopicWatch = request.app.state.topic_watch
    try:
        figures = await watch.figures()
    except KafkaAwayError:
        raise Unavailable("Kafka does not answer right now. Try again shortly.") from None
    items = [_topic(topic) for topic in figures.topics]
    return TopicList(
        as_of=figures.as_of, lag_records=sum(item.lag_records for item in items), items=items
    )


def _topic(figures: TopicFigures) -> TopicAnswer:
    groups = [
        GroupLag(
            group=group.group,
            lag_records=group.lag_records,
            partitions_behind=group.partitions_behind,
            partitions=[
                PartitionLag(
                    partition=partition,
                    committed_offset=committed,
                    end_offset=figures.end_offsets[partition],
                )
                for partition, committed in group.committed.items()
            ],
        )
        for group in figures.groups
    ]
    return TopicAnswer(
        topic=figures.topic,
        partitions=len(figures.end_offsets),
        records=figures.records,
        end_offsets=list(figures.end_offsets.values()),
        lag_records=sum(group.lag_records for group in groups),
        groups=groups,
    )
