//! The rows of system A, each on real servers: two services as processes, PostgreSQL and Redis of the
//! test's own, plain clients of both.

#[cfg(test)]
mod it {
    mod a01_settings;
    mod a02_words;
    mod a03_wire;
    mod a04_publisher;
    mod a05_outbox;
    mod a06_sources;
    mod a07_group;
    mod a08_strange;
    mod a09_flags;
    mod a10_once;
    mod a11_jobs;
    mod a12_crawler;
    mod a13_end_to_end;
    mod campaign;
    mod site;
    mod stage;
}
