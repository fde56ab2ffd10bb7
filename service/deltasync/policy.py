"""What is done about changes of the source's tables: the section `[ddl]` of the settings."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Action = Literal["apply", "hold", "ignore", "stop"]


class Ddl(BaseModel):
    """An action for each kind of change, and how long DDL on the replica waits for a lock.

    `apply`: the replica's table follows. `hold`: rows from behind the change wait until the operator approves it.
    `ignore`: the replica's table stays as it is. `stop`: its partition stops. Each kind has those that keep the
    promise: what became of values when their type changed, no description tells.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    create_table: Literal["apply", "hold"] = "apply"
    drop_table: Literal["apply", "hold", "ignore", "stop"] = "hold"
    rename_table: Literal["apply", "hold", "ignore"] = "hold"
    add_column: Literal["apply", "hold", "stop"] = "apply"
    add_enum_label: Literal["apply", "hold", "stop"] = "apply"
    drop_not_null: Literal["apply", "hold", "stop"] = "apply"
    set_default: Literal["apply", "hold", "ignore", "stop"] = "apply"
    set_not_null: Literal["apply", "hold", "ignore", "stop"] = "ignore"
    widen_type: Literal["apply", "hold", "stop"] = "hold"
    rename_column: Literal["apply", "hold", "stop"] = "hold"
    drop_column: Literal["apply", "hold", "ignore", "stop"] = "hold"
    change_type: Literal["hold", "stop"] = "hold"
    change_key: Literal["hold", "stop"] = "hold"
    lock_timeout_s: float = Field(2.0, gt=0, le=60)

    @property
    def policy(self) -> dict[str, Action]:
        """What is done about each kind of change (`replica.changes.Kind`)."""
        return self.model_dump(exclude={"lock_timeout_s"})
