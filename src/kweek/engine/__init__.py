"""Generation and scoring behind the LanguageModel protocol."""
