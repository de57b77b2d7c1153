"""The audit that every verifier and environment passes before it may train anything."""
