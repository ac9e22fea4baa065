-- migrate:up

-- Which version of the record `record_format` belongs to. A process of the release before, which runs
-- beside this one during a roll-out, raises the version alone: its record is told anew then as well.
-- Records of before know none and are told once more.
alter table tenant add column record_format_version bigint not null default 0;
