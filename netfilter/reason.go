package netfilter

// The reasons of a [Verdict]. They are written to the audit log and shown to
// people, so their text is an interface.
const (
	ReasonAllowed      = "rule"          // an allow rule decided
	ReasonDefaultAllow = "default"       // no rule matched and the default is allow
	ReasonDenied       = "deny_rule"     // a deny rule decided
	ReasonNoRule       = "no_rule"       // no rule allows the name on any port
	ReasonAnswer       = "answer"        // the user was asked
	ReasonNoAnswer     = "no_answer"     // the user was asked and did not answer, which is no
	ReasonRequest      = "request"       // the name is allowed, requests with this method or path are not
	ReasonBadPath      = "bad_path"      // a path that servers read in different ways, where rules look at paths
	ReasonPort         = "port"          // the name is allowed, this port of it is not
	ReasonBadName      = "bad_name"      // not a host name in canonical form
	ReasonLocalName    = "local_name"    // a name that means something on the local network alone
	ReasonLiteral      = "literal_addr"  // the guest chose an address instead of a name
	ReasonAddressClass = "address_class" // the name leads to an address that is not public, see [HostNet.Check]
)
