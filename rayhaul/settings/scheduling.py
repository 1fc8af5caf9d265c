"""What the scheduler decides by: how many agents there are, who is next, who counts as lost, what is swept."""

from pathlib import Path

from pydantic import Field

from rayhaul.settings.base import Group


class ScalingSettings(Group):
    agents_min: int = Field(1, ge=0, description="Agents never fall below this.")
    agents_max: int = Field(8, gt=0, description="Agents never rise above this.")
    cooldown_s: float = Field(180, ge=0, description="Quiet time after a change, seconds.")
    scale_in_window_s: float = Field(
        300, ge=0, description="How long load must have been low before an agent is drained, seconds."
    )
    scale_in_margin_pct: float = Field(
        15, gt=0, lt=85, description="Low load: with one agent fewer it would stay this far under 85 %."
    )
    scale_in_share_pct: int = Field(10, gt=0, le=50, description="Most agents drained at once, of all; at least one.")
    smoothing_s: float = Field(15, ge=0, description="Load is averaged over about this long, seconds; 0: not at all.")
    drain_s: float = Field(
        600, ge=0, description="A draining agent gets this long to finish; then its jobs go on elsewhere, seconds."
    )
    rules_path: Path | None = Field(
        None, description="Alert file whose auto-scale rule is used; empty: the one that is installed."
    )


class QueueSettings(Group):
    """How free slots are divided between waiting jobs. Shares are relative to each other, and count while both wait."""

    share_high: int = Field(16, gt=0, le=1000, description="Starts of high jobs, against the other two shares.")
    share_normal: int = Field(4, gt=0, le=1000, description="Starts of normal jobs, against the other two shares.")
    share_low: int = Field(1, gt=0, le=1000, description="Starts of low jobs, against the other two shares.")
    running_per_user_max: int | None = Field(
        None, gt=0, description="Jobs of one user that run at once; empty: no limit."
    )


class QuotaSettings(Group):
    bytes_per_day_max: int | None = Field(
        None, gt=0, description="Bytes one user may have moved in a day of UTC; empty: no limit."
    )


class LivenessSettings(Group):
    heartbeat_s: float = Field(1, gt=0, description="Time between two reports of an agent, seconds.")
    offline_s: float = Field(60, gt=0, description="Silence after which an agent counts as lost, seconds.")
    self_fence_s: float = Field(
        45, gt=0, description="An agent without an answer for this long stops by itself, seconds."
    )
    stalled_s: float = Field(
        120, gt=0, description="Silence of a job's progress after which it is handed back, seconds."
    )
    overdue_floor_s: float = Field(
        300, gt=0, description="A job is overdue after twice its estimated time, but not before this, seconds."
    )
    commit_stalled_s: float = Field(
        600, gt=0, description="Longest wait for the bucket to complete an upload, seconds; S3 may take minutes."
    )
    requeues_max: int = Field(3, ge=0, description="Times a job is handed back before it fails.")
    park_s: float = Field(
        30, gt=0, description="Pause of all starts after the bucket refused us, doubled each time, seconds."
    )
    park_s_max: float = Field(300, gt=0, description="Longest such pause, seconds.")


class SweepSettings(Group):
    """How the bucket is kept free of multipart uploads that no job needs: they cost money and are not seen."""

    interval_s: float = Field(600, gt=0, description="Time between two looks for such uploads, seconds.")
    age_s_min: float = Field(3600, gt=0, description="Younger uploads are left alone, seconds.")
    rule_days: int | None = Field(
        7,
        gt=0,
        description="Where the bucket has no lifecycle rules, one is set that aborts uploads after so many days; "
        "empty: its rules are left alone.",
    )
    owns_prefix: bool = Field(
        default=False,
        description="Nobody but this cluster uploads under `s3.prefix`: what its ledger does not know there is "
        "aborted, under keys that callers named as well. Such a prefix is empty, or ends in `/`. Else such uploads are "
        "left to the rule.",
    )
