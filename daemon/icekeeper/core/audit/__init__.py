"""The rules of the audit: what two counts of a window mean. Pure; counting lives in the adapters."""
