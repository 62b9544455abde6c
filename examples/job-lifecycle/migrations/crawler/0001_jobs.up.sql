-- Events whose effect is in this database. A row is written in the transaction of its effect.
CREATE TABLE processed_events (
    event_id     uuid PRIMARY KEY,
    processed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idx_processed_events_cleanup ON processed_events (processed_at);

-- Every source as its last event left it. Details are null once it is deleted: what comes late is
-- recognised by `changed_at` all the same.
CREATE TABLE known_sources (
    source_id  uuid PRIMARY KEY,
    details    jsonb,
    changed_at timestamptz NOT NULL
);

CREATE TABLE jobs (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    source_id        uuid,
    -- Made by events, which touch no other.
    auto_managed     boolean NOT NULL,
    name             text NOT NULL,
    url              text NOT NULL,
    rate_limit       bigint NOT NULL,
    max_depth        bigint NOT NULL,
    -- 100, 75, 50, 25: critical, high, normal, low.
    priority         integer NOT NULL,
    status           text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused')),
    -- Failed runs in a row.
    failures         integer NOT NULL DEFAULT 0,
    interval_seconds double precision NOT NULL,
    next_run_at      timestamptz NOT NULL,
    last_run_at      timestamptz,
    -- While a crawler is at work on it, which says so again and again.
    running_until    timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX one_managed_job_per_source ON jobs (source_id) WHERE auto_managed;
CREATE INDEX jobs_that_are_due ON jobs (next_run_at) WHERE status = 'active';

CREATE TABLE executions (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    job_id      uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    status      text NOT NULL DEFAULT 'running'
                CHECK (status IN ('running', 'succeeded', 'failed', 'interrupted')),
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    pages       bigint NOT NULL DEFAULT 0,
    error       text
);
CREATE INDEX executions_of_a_job ON executions (job_id, started_at);
