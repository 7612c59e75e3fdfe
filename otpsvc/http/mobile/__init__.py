"""`/mobile/v1`: the phone's face, the protocol by which the SMSGate app takes its messages and reports on them."""
