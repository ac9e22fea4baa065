-- migrate:up

-- What a fact earned is here once by its source key: a ledger that was restored tells the same fact
-- again, perhaps as another entry. Rows of before name no source key, so what they say is made anew of
-- `ledger.entries`, which keeps everything. Fences come first, as in every batch: no batch is at work
-- on what follows.
update fence set next_offset = 0, last_record_digest = null, moved_at = now()
where topic = 'ledger.entries';
truncate inbox;
truncate revenue_line, revenue_month;

-- squawk-ignore ban-drop-constraint
alter table revenue_line drop constraint revenue_line_pkey;
-- squawk-ignore adding-required-field
alter table revenue_line add column source_key text not null;
-- squawk-ignore constraint-missing-not-valid, adding-serial-primary-key-field
alter table revenue_line add primary key (tenant_id, mode, book, source_key, account, currency);

-- The version before knows no source key. Until it is replaced it tries again, as if it waited for a
-- lock: nothing it reads is put aside.
create function wait_for_source_key() returns trigger
language plpgsql as $$
begin
    if new.source_key is null then
        raise exception 'revenue is counted by source key: this waits for the next version'
            using errcode = 'lock_not_available';
    end if;
    return new;
end $$;
create trigger has_source_key before insert on revenue_line
    for each row execute function wait_for_source_key();
