"""Service envelopes: request formats that are unpacked before, and packed after, any handler."""
