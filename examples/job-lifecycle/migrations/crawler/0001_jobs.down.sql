DROP TABLE executions;
DROP TABLE jobs;
DROP TABLE known_sources;
DROP TABLE processed_events;
