"""The audit: its records, and what two counts of a window mean. Pure; counting lives in the adapters."""
