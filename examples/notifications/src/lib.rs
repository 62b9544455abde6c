//! Chats and tasks whose members are notified: domain events over Redis, and three handlers.
