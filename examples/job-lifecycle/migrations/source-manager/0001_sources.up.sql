CREATE TABLE sources (
    id         uuid PRIMARY KEY,
    -- What a source is, as its events say it.
    details    jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Also the time of the source's last event: it grows with every change.
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
