-- migrate:up

-- What an event added stands beside its id, so that a void takes back exactly that. An id that is
-- voided counts no more; one that was voided before its event came stands here without content.
alter table usage_event_id add column gained bytea;
alter table usage_event_id add column voided boolean not null default false;

-- What events gave to aggregates from which nothing can be subtracted: the values behind a minimum,
-- a maximum, a latest and the different ones of a unique count.
create table usage_value (
    tenant_id uuid not null,
    mode text not null,
    series_id uuid not null,
    minute timestamptz not null,
    id_hash bytea not null,
    used_at timestamptz not null,
    value numeric,
    value_hash bytea,
    primary key (tenant_id, mode, series_id, minute, id_hash)
);
create index usage_value_minute on usage_value using brin (minute);
select isolate('usage_value');
select open_to_maintenance('usage_value');

-- Who corrected usage, why, and how many events; which ones stand on usage.events under its id.
create table correction (
    tenant_id uuid not null,
    mode text not null,
    id uuid not null,
    kind text not null check (kind in ('void', 'amend')),
    reason text not null,
    actor text not null,
    events integer not null check (events > 0),
    created_at timestamptz not null,
    primary key (tenant_id, mode, id)
);
select isolate('correction');
revoke update, delete on correction from sluice_metering;
