// Package trust makes everything in the guest believe the authorities that the host
// names: the sandbox's own, which signs what the gateway intercepts, and those that the host
// trusts beyond its distribution's. The guest has them in its store; most runtimes that
// bring a store of their own have a variable ([Environment]); and a container, which has
// neither, gets both from a step before runc ([Runc]), so that `docker run` and `docker build`
// work without a change to any Dockerfile.
package trust

// Where the authorities are in the guest.
const (
	// Bundle is Debian's: all authorities, ours appended.
	Bundle = "/etc/ssl/certs/ca-certificates.crt"
	// Extra holds ours alone, where update-ca-certificates looks for it.
	Extra = "/usr/local/share/ca-certificates/sbx-host.crt"
	// inContainer is where a container finds the guest's bundle: on the tmpfs that every
	// container has at /dev, so that no image keeps a trace of it.
	inContainer = "/dev/sbx-ca.crt"
)

// variables name a file with all authorities; extraVariable one with more than the built-in ones.
func variables() []string {
	return []string{
		"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "CARGO_HTTP_CAINFO", "DENO_CERT",
		"SSL_CA_CERT_FILE", // Alpine's apk
	}
}

const extraVariable = "NODE_EXTRA_CA_CERTS"

// Environment gives the variables by which programs with a store of their own read ours,
// for commands in the guest.
func Environment() map[string]string { return environment(Bundle, Extra) }

// Names are the variables of Environment, which sudo must keep.
func Names() []string { return append(variables(), extraVariable) }

func environment(bundle, extra string) map[string]string {
	env := map[string]string{extraVariable: extra}
	for _, name := range variables() {
		env[name] = bundle
	}
	return env
}
