"""Differential tester: the same bootstrap and the same bytes through Envoy and a second proxy."""
