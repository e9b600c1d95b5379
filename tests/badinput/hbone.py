import bed
CASES = []
class HboneBed: pass
