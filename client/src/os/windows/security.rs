//! Who this process is to Windows, and what others may do with what it makes; the system's own folders and its DNS cache.
//!
//! The environment is not asked: users can set it for what runs with more rights than theirs. Must not decide who may do what.

use std::ffi::c_void;
use std::io;
use std::os::windows::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::os::windows::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr::null_mut;

use tokio::net::windows::named_pipe::{NamedPipeServer, ServerOptions};
use windows_sys::Win32::Foundation::{ERROR_SUCCESS, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW,
    GetNamedSecurityInfoW, SDDL_REVISION_1, SE_FILE_OBJECT,
};
use windows_sys::Win32::Security::{
    GetTokenInformation, IsWellKnownSid, OWNER_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR, PSID,
    SECURITY_ATTRIBUTES, TOKEN_ELEVATION, TOKEN_QUERY, TOKEN_USER, TokenElevation, TokenUser,
    WinBuiltinAdministratorsSid, WinLocalSystemSid,
};
use windows_sys::Win32::Storage::FileSystem::CreateDirectoryW;
use windows_sys::Win32::System::Com::CoTaskMemFree;
use windows_sys::Win32::System::GroupPolicy::{RP_FORCE, RefreshPolicyEx};
use windows_sys::Win32::System::Threading::{
    CREATE_NO_WINDOW, GetCurrentProcess, OpenProcessToken,
};
use windows_sys::Win32::UI::Shell::{FOLDERID_ProgramData, FOLDERID_System, SHGetKnownFolderPath};
use windows_sys::core::{GUID, PWSTR};

use super::nrpt;

/// Full rights for the system and administrators, reading for users; nothing is inherited from above.
const ADMINISTRATORS_FOLDER: &str = "O:BAG:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FRFX;;;BU)";
/// More than any TOKEN_USER.
const TOKEN_WORDS: usize = 32;

/// Whether this process has the rights of administrators.
#[expect(unsafe_code, reason = "no crate here wraps tokens")]
pub(crate) fn is_elevated() -> bool {
    let mut elevation = TOKEN_ELEVATION::default();
    let mut length = 0;
    let size = u32::try_from(size_of::<TOKEN_ELEVATION>()).unwrap_or_default();
    let Ok(token) = token() else { return false };
    // SAFETY: the token is open; the pointer leads to as many bytes as are said, which live until the call returns.
    let told = unsafe {
        let place = (&raw mut elevation).cast();
        GetTokenInformation(
            token.as_raw_handle(),
            TokenElevation,
            place,
            size,
            &raw mut length,
        )
    };
    told != 0 && elevation.TokenIsElevated != 0
}

#[expect(unsafe_code, reason = "no crate here wraps tokens")]
fn token() -> io::Result<OwnedHandle> {
    let mut token = null_mut();
    // SAFETY: the pseudo-handle of this process needs no closing; the token that is returned is ours to close.
    unsafe {
        succeeded(OpenProcessToken(
            GetCurrentProcess(),
            TOKEN_QUERY,
            &raw mut token,
        ))?;
        Ok(OwnedHandle::from_raw_handle(token))
    }
}

/// This user's identity, as SDDL has it.
#[expect(unsafe_code, reason = "no crate here wraps tokens")]
fn own_sid() -> io::Result<String> {
    let token = token()?;
    let mut space = [0u64; TOKEN_WORDS];
    let mut length = 0;
    let size = u32::try_from(size_of_val(&space)).unwrap_or_default();
    let mut text: PWSTR = null_mut();
    // SAFETY: the space is aligned for a TOKEN_USER and as long as is said; the identity lies in it too and is read while it lives.
    // The text is null-terminated and the system's to free.
    unsafe {
        let place = space.as_mut_ptr().cast::<c_void>();
        succeeded(GetTokenInformation(
            token.as_raw_handle(),
            TokenUser,
            place,
            size,
            &raw mut length,
        ))?;
        let user = &*place.cast::<TOKEN_USER>();
        succeeded(ConvertSidToStringSidW(user.User.Sid, &raw mut text))?;
        let sid = wide_text(text);
        LocalFree(text.cast());
        Ok(sid.to_string_lossy().into_owned())
    }
}

/// A security descriptor of the system's making.
struct Descriptor(PSECURITY_DESCRIPTOR);

#[expect(unsafe_code, reason = "no crate here wraps security descriptors")]
impl Descriptor {
    fn of(sddl: &str) -> io::Result<Self> {
        let mut descriptor = null_mut();
        let sddl = wide(sddl.as_ref());
        // SAFETY: the text is null-terminated; what is returned is freed when this is dropped.
        unsafe {
            succeeded(ConvertStringSecurityDescriptorToSecurityDescriptorW(
                sddl.as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor,
                null_mut(),
            ))?;
        }
        Ok(Self(descriptor))
    }

    fn attributes(&self) -> SECURITY_ATTRIBUTES {
        SECURITY_ATTRIBUTES {
            nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or_default(),
            lpSecurityDescriptor: self.0,
            bInheritHandle: 0,
        }
    }
}

#[expect(unsafe_code, reason = "no crate here wraps security descriptors")]
impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: it came from the system, which wants it back like this, and nobody has it any more.
        unsafe { LocalFree(self.0) };
    }
}

/// A pipe that this user, administrators and the system can open, on this machine. Needs a tokio runtime.
///
/// # Errors
/// The name is taken, or the system refused.
#[expect(
    unsafe_code,
    reason = "tokio takes security attributes by a pointer only"
)]
pub(crate) fn own_pipe(options: &mut ServerOptions, name: &str) -> io::Result<NamedPipeServer> {
    let sddl = format!("D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;{})", own_sid()?);
    let descriptor = Descriptor::of(&sddl)?;
    let mut attributes = descriptor.attributes();
    let attributes = (&raw mut attributes).cast::<c_void>();
    // SAFETY: the pointer leads to SECURITY_ATTRIBUTES that live until the call returns.
    unsafe {
        options
            .reject_remote_clients(true)
            .create_with_security_attributes_raw(name, attributes)
    }
}

/// Makes a folder that users can only read.
///
/// # Errors
/// It is there, or the system refused.
#[expect(
    unsafe_code,
    reason = "the standard library takes no security attributes"
)]
pub(crate) fn make_administrators_folder(path: &Path) -> io::Result<()> {
    let descriptor = Descriptor::of(ADMINISTRATORS_FOLDER)?;
    let attributes = descriptor.attributes();
    // SAFETY: the path is null-terminated, and the attributes live until the call returns.
    unsafe {
        succeeded(CreateDirectoryW(
            wide(path.as_os_str()).as_ptr(),
            &raw const attributes,
        ))
    }
}

/// Whether a file or folder belongs to the administrators or the system.
///
/// # Errors
/// It is not there, or cannot be looked at.
#[expect(unsafe_code, reason = "no crate here reads owners")]
pub(crate) fn is_owned_by_administrators(path: &Path) -> io::Result<bool> {
    let mut owner: PSID = null_mut();
    let mut descriptor: PSECURITY_DESCRIPTOR = null_mut();
    let path = wide(path.as_os_str());
    // SAFETY: the path is null-terminated; the owner lies in the descriptor, which is freed when both were read.
    unsafe {
        let code = GetNamedSecurityInfoW(
            path.as_ptr(),
            SE_FILE_OBJECT,
            OWNER_SECURITY_INFORMATION,
            &raw mut owner,
            null_mut(),
            null_mut(),
            null_mut(),
            &raw mut descriptor,
        );
        if code != ERROR_SUCCESS {
            return Err(io::Error::from_raw_os_error(code.cast_signed()));
        }
        let is = |kind| IsWellKnownSid(owner, kind) != 0;
        let is_theirs = is(WinBuiltinAdministratorsSid) || is(WinLocalSystemSid);
        LocalFree(descriptor);
        Ok(is_theirs)
    }
}

/// Where programs keep what is the machine's.
pub(crate) fn program_data() -> PathBuf {
    folder(&FOLDERID_ProgramData).unwrap_or_else(|| PathBuf::from(r"C:\ProgramData"))
}

#[expect(unsafe_code, reason = "no crate here knows the system's folders")]
fn folder(id: &GUID) -> Option<PathBuf> {
    let mut path: PWSTR = null_mut();
    // SAFETY: the id lives until the call returns; the path is null-terminated and given back, also when there is none.
    unsafe {
        let code = SHGetKnownFolderPath(id, 0, null_mut(), &raw mut path);
        let found = (code >= 0 && !path.is_null()).then(|| PathBuf::from(wide_text(path)));
        CoTaskMemFree(path.cast());
        found
    }
}

/// Has the system forget names that it asked for, and heed the rules as they stand. What fails is told in the log alone: names are
/// tried afterwards anyway.
#[expect(unsafe_code, reason = "no crate here wraps group policies")]
pub(super) fn refresh_names() {
    if nrpt::has_policies() {
        // SAFETY: takes numbers only.
        let done = unsafe { RefreshPolicyEx(1, RP_FORCE) };
        tracing::debug!(done, "group policies are read again");
    }
    let Some(system) = folder(&FOLDERID_System) else {
        return;
    };
    let mut command = Command::new(system.join("ipconfig.exe"));
    command.arg("/flushdns").creation_flags(CREATE_NO_WINDOW);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    tracing::debug!(?status, "`ipconfig /flushdns`");
}

fn succeeded(done: i32) -> io::Result<()> {
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn wide(text: &std::ffi::OsStr) -> Vec<u16> {
    text.encode_wide().chain([0]).collect()
}

/// # Safety
/// The text must be null-terminated.
#[expect(unsafe_code, reason = "it is read where the system put it")]
unsafe fn wide_text(text: *const u16) -> std::ffi::OsString {
    // SAFETY: the caller says that a null ends it, so that everything before can be read.
    unsafe {
        let length = (0..).take_while(|&at| *text.add(at) != 0).count();
        std::ffi::OsString::from_wide(std::slice::from_raw_parts(text, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_user_has_an_identity_and_the_system_its_folders() {
        assert!(own_sid().unwrap().starts_with("S-1-"));
        assert!(program_data().is_absolute());
        assert!(is_owned_by_administrators(&program_data()).is_ok());
    }

    #[tokio::test]
    async fn a_pipe_takes_its_own_user() {
        let name = format!(r"\\.\pipe\kvpn-test-{}", std::process::id());
        let server = own_pipe(&mut ServerOptions::new(), &name).unwrap();
        let client = tokio::net::windows::named_pipe::ClientOptions::new().open(&name);
        client.unwrap();
        server.connect().await.unwrap();
    }
}
