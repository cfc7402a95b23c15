"""The steps from one schema to the next, oldest first in `versions`. A released step is never edited."""
