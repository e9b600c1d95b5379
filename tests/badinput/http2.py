CASES = []
SCRIPTS = {}
