package source

// Names that the Go SDK uses in addition to those of the events themselves.
const (
	DirectoryActivated           = DsyncActivated
	DirectoryDeleted             = DsyncDeleted
	DirectoryUserCreated         = DsyncUserCreated
	DirectoryUserUpdated         = DsyncUserUpdated
	DirectoryUserDeleted         = DsyncUserDeleted
	DirectoryGroupCreated        = DsyncGroupCreated
	DirectoryGroupUpdated        = DsyncGroupUpdated
	DirectoryGroupDeleted        = DsyncGroupDeleted
	DirectoryGroupUserAdded      = DsyncGroupUserAdded
	DirectoryGroupUserRemoved    = DsyncGroupUserRemoved
	AuthenticationMfaSucceeded   = AuthenticationMFASucceeded
	AuthenticationOauthFailed    = AuthenticationOAuthFailed
	AuthenticationOauthSucceeded = AuthenticationOAuthSucceeded
	AuthenticationSsoFailed      = AuthenticationSSOFailed
	AuthenticationSsoSucceeded   = AuthenticationSSOSucceeded
	// Deprecated: use DirectoryGroupUserRemoved.
	DirectroyGroupUserRemoved = DsyncGroupUserRemoved
)

// Types that the Go SDK names, or named, and that WorkOS no longer sends.
const (
	// Deprecated: use OrganizationMembershipCreated.
	OrganizationMembershipAdded = "organization_membership.added"
	// Deprecated: use OrganizationMembershipDeleted.
	OrganizationMembershipRemoved = "organization_membership.removed"
	SessionReauthenticated        = "session.reauthenticated" // see AuthenticationReauthenticationSucceeded
	UserImpersonated              = "user.impersonated"       // a session names its impersonator
)
