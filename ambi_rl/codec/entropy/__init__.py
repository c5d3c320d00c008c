"""Context-mixed binary arithmetic coding in integer arithmetic."""
